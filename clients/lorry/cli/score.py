"""`lorry score`: how likely given continuations are, as JSON lines in and out.

Owns the command's options and the line that sums up. The scores are the worker's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import options, output
from lorry.cli.context import Active, worker
from lorry.cli.examples import perplexity, read_items

if TYPE_CHECKING:
    from lorry.scoring import Item
    from lorry.selection import Adapters
    from lorry.v1.inference_pb2 import ScoreResponse


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(score)


def score(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="JSON lines; - reads standard input."),
    ],
    *,
    adapter: Active = None,
    base_only: options.BaseOnly = False,
    route: options.Route = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a document an item as soon as it is done, with every token.")
    ] = False,
) -> None:
    """Score continuations: each line has a "prompt" ("messages", "tokens") and a "continuation" (or "..._tokens").

    A line may name its own "adapters" or "route"; -a, --base-only and --route are for those that do not.
    """
    chosen = options.selection(adapter, base_only=base_only)
    with worker(ctx) as client:
        scores = client.score(_with(read_items(file), chosen, route))
        if as_json:
            for answer in scores:
                output.say_json(answer)
        else:
            _show(sorted(scores, key=lambda answer: answer.index))


def _with(items: Iterable[Item], chosen: Adapters | None, route: str | None) -> Iterator[Item]:
    """The items, those that say nothing of adapters with what the options say."""
    for item in items:
        if not item.keys() & {"adapters", "route"}:
            if chosen is not None:
                item["adapters"] = chosen
            if route is not None:
                item["route"] = route
        yield item


def _show(scores: list[ScoreResponse]) -> None:
    output.show_table(
        ("item>", "logprob>", "tokens>", "greedy", "adapters"),
        ((s.index, f"{s.logprob:.4f}", len(s.tokens), _yes(s), output.selection(s.adapters)) for s in scores),
    )
    tokens = sum(len(answer.tokens) for answer in scores)
    total = math.fsum(answer.logprob for answer in scores)
    if tokens:
        mean = total / tokens
        output.say(f"{len(scores)} items, {mean:.4f} a token, perplexity {perplexity(mean):.4f}")


def _yes(answer: ScoreResponse) -> str:
    return "yes" if answer.greedy else ""
