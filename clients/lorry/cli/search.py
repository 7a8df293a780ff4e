"""`lorry combine search`: the weights under which a mix of adapters explains examples best, published where asked.

Owns the command's options, the bar and the table. Candidates are scored as selections; the best alone
is combined, by `sum`, which is what a selection computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, worker
from lorry.cli.examples import Examples, read_items

if TYPE_CHECKING:
    from lorry.search import Tried
    from lorry.sync import WorkerClient
    from lorry.v1.residency_pb2 import CombineResponse

# A table that fits a screen; --json has them all.
_SHOWN = 20


def search(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    sources: Annotated[list[str], typer.Argument(metavar="REF...", help="The adapters to mix.")],
    *,
    examples: Examples,
    steps: Annotated[int, typer.Option(min=1, help="Try every mix of multiples of 1/STEPS.")] = 10,
    draws: Annotated[int | None, typer.Option("--random", min=1, help="Try so many random mixes instead.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random mixes, and of the choice where the budget is small.")] = 0,
    budget: Annotated[int, typer.Option(min=1, help="The most mixes that are tried.")] = 200,
    publish: Annotated[str, typer.Option(metavar="NAME", help="Combine the best mix and publish it under it.")] = "",
    alias: Annotated[str, typer.Option(help="Alias to point to what is published.")] = "",
    as_json: Json = False,
) -> None:
    """Search weights: `lorry combine search pirate json --examples texts.jsonl --publish mix`.

    Every mix is scored by the log-likelihood of the examples' continuations; the base alone is shown beside them.
    """
    from lorry import search as finding

    if alias and not publish:
        raise typer.BadParameter("--alias belongs to --publish")
    mixes: Iterable[dict[str, float]] = (
        finding.grid(sources, steps)
        if draws is None
        else chain(({source: 1.0} for source in sources), finding.draws(sources, draws, seed))
    )
    candidates = finding.within(mixes, budget, seed)
    with worker(ctx) as client:
        with output.bar("trying mixes", len(candidates) + 1) as advance:
            found = []
            for one in client.search([{}, *candidates], list(read_items(examples))):
                found.append(one)
                advance()
        found.sort(key=lambda one: (-one.logprob, one.index))
        best = next(one for one in found if one.weights)
        made = _published(client, best.weights, publish, alias) if publish else None
    if as_json:
        output.say_json({"tried": [_plain(one) for one in found], "best": dict(best.weights), "published": made})
    else:
        _show(found, best, made)


def _published(client: WorkerClient, weights: Mapping[str, float], name: str, alias: str) -> CombineResponse:
    with output.spinner("combining the best mix"):
        return client.combine(weights, "sum", publish=name, alias=alias)


def _show(found: Sequence[Tried], best: Tried, made: CombineResponse | None) -> None:
    output.show_table(
        ("mix", "logprob>", "a token>", "greedy>"),
        ((_mix(one.weights), f"{one.logprob:.4f}", f"{one.per_token:.4f}", one.greedy) for one in found[:_SHOWN]),
    )
    if len(found) > _SHOWN:
        output.say(f"({len(found) - _SHOWN} more)")
    if made is None:
        output.say(f"best: lorry combine {' '.join(f'{ref}={w:g}' for ref, w in best.weights.items())} --method sum")
    else:
        version = made.version
        output.say(f"published {version.namespace}/{version.name}@{version.number}  {version.digest}")


def _mix(weights: Mapping[str, float]) -> str:
    return " + ".join(f"{weight:g} {reference}" for reference, weight in weights.items()) or output.BASE


def _plain(one: Tried) -> dict[str, object]:
    return {
        "weights": dict(one.weights),
        "logprob": one.logprob,
        "per_token": one.per_token,
        "tokens": one.tokens,
        "greedy": one.greedy,
    }
