"""`lorry combine`: a new adapter out of others, kept on the worker or published.

Owns the command's options. Which methods there are and what each takes is the contract's.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, adapters, worker


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(combine)


def combine(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    sources: Annotated[list[str], typer.Argument(metavar="REF[=WEIGHT]...", help="What to combine.")],
    *,
    method: Annotated[
        str, typer.Option(help="linear, cat, magnitude_prune, ties, dare_linear, dare_ties or svd.")
    ] = "linear",
    density: Annotated[float | None, typer.Option(help="Share of the entries that is kept.")] = None,
    sign: Annotated[str | None, typer.Option(metavar="total|frequency", help="How TIES elects a sign.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of DARE's random choice; part of the recipe.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of svd's result; the largest source's where not given.")] = None,
    clamp: Annotated[float | None, typer.Option(help="Quantile at which svd's factors are clamped.")] = None,
    publish: Annotated[str, typer.Option(metavar="NAME", help="Publish it under this name, with its lineage.")] = "",
    alias: Annotated[str, typer.Option(help="Alias to point to what is published.")] = "",
    description: Annotated[str, typer.Option(help="Used where the published adapter is new.")] = "",
    as_json: Json = False,
) -> None:
    """Combine adapters: `lorry combine pirate json=0.5 --method ties --density 0.5 --publish mix`."""
    if (alias or description) and not publish:
        raise typer.BadParameter("--alias and --description belong to --publish")
    with worker(ctx) as client, output.spinner(f"combining by {method}"):
        made = client.combine(
            adapters(sources),
            method,
            publish=publish,
            alias=alias,
            description=description,
            density=density,
            majority_sign=sign,
            seed=seed,
            rank=rank,
            clamp_quantile=clamp,
        )
    if as_json:
        output.say_json(made)
        return
    output.say(f"{made.adapter}  rank {made.resident.rank}{'  (was there already)' if made.existed else ''}")
    if made.HasField("version"):
        version = made.version
        output.say(f"published {version.namespace}/{version.name}@{version.number}  {version.digest}")
