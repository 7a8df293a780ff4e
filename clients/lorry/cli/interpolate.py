"""`lorry interpolate`: what a prompt gets along the line between two adapters.

Owns this one command.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lorry.cli import options, output
from lorry.cli.context import Json, Reference, worker


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(interpolate)


def interpolate(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    first: Reference,
    second: Reference,
    *,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to answer; - reads it from standard input.")],
    steps: Annotated[int, typer.Option(min=2, help="Points of the line, both ends counted.")] = 5,
    raw: options.Raw = False,
    system: options.System = "",
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    as_json: Json = False,
) -> None:
    """Show the answers along the line between two adapters, all in one batch of the worker."""
    with worker(ctx) as client, output.spinner(f"{steps} answers"):
        points = client.interpolate(
            first,
            second,
            steps=steps,
            **options.asked(prompt, raw=raw, system=system),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
    if as_json:
        output.say_json([{"position": p.position, "weights": p.weights, "text": p.text} for p in points])
        return
    for point in points:
        output.say(" + ".join(f"{weight:.2f} {name}" for name, weight in point.weights.items()))
        output.write(f"  {point.text}\n")
