"""`lorry compare`: what several selections answer to one prompt, or how likely each finds the same texts.

Owns the command's options and the tables. All selections run side by side in the worker's batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorry.cli import options, output
from lorry.cli.context import Json, worker
from lorry.cli.examples import perplexity, read_items, selection

if TYPE_CHECKING:
    from lorry.scoring import Item
    from lorry.sync import Generation, WorkerClient
    from lorry.v1.inference_pb2 import ScoreResponse


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    selections: Annotated[
        list[str], typer.Argument(metavar="REF[=WEIGHT][+REF[=WEIGHT]]...", help="What to compare, beside the base.")
    ],
    *,
    prompt: Annotated[str | None, typer.Option(help="Compare the answers to this.")] = None,
    continuation: Annotated[
        list[str] | None, typer.Option(help="Do not generate: how likely is this behind --prompt? Several times.")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score these JSON lines; - reads standard input."),
    ] = None,
    raw: options.Raw = False,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    as_json: Json = False,
) -> None:
    """Put selections side by side: `lorry compare pirate pirate+json=0.5 --prompt "Hello"`.

    With --prompt their answers, with --prompt and --continuation or with --examples how likely they find the texts.
    """
    if (prompt is None) == (examples is None):
        raise typer.BadParameter("expected --prompt or --examples, one of them")
    if continuation and prompt is None:
        raise typer.BadParameter("--continuation belongs to --prompt")
    names = [output.BASE, *selections]
    with worker(ctx) as client:
        if examples is not None or continuation:
            items = (
                list(read_items(examples)) if examples else [_item(prompt, one, raw=raw) for one in continuation or ()]
            )
            _show_scores(names, items, _scores(client, names, items), as_json=as_json)
            return
        from lorry.generation import WHOLE

        asked: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        asked |= {"stream_interval": WHOLE, "messages": None if raw else [("user", prompt)]}
        # All are begun before the first is read: they share the batch.
        answers = [client.generate(prompt if raw else None, adapters=selection(name), **asked) for name in names]
        _show_answers(names, [_read(answer) for answer in answers], as_json=as_json)


def _item(prompt: str | None, continuation: str, *, raw: bool) -> Item:
    if raw:
        return {"prompt": prompt or "", "continuation": continuation}
    return {"messages": [("user", prompt or "")], "continuation": continuation}


def _read(answer: Generation) -> dict[str, Any]:
    """What served an answer, and its text."""
    messages = list(answer)
    return {"adapters": list(messages[0].started.adapters), "text": "".join(m.delta.text for m in messages)}


def _show_answers(names: Sequence[str], answers: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        output.say_json([{"selection": name, **answer} for name, answer in zip(names, answers, strict=True)])
        return
    rows = (row for name, answer in zip(names, answers, strict=True) for row in _lines(name, answer["text"]))
    output.show_table(("selection", "answer"), rows)


def _lines(name: str, text: str) -> Iterator[tuple[str, str]]:
    """A row for each line of an answer, the first of them named."""
    first, *others = text.expandtabs().split("\n")
    return iter([(name, first), *(("", line) for line in others)])


def _scores(client: WorkerClient, names: Sequence[str], items: Sequence[Item]) -> list[list[ScoreResponse]]:
    """A row of scores for each selection, in the order of the items."""
    asked: list[Item] = [{**item, "adapters": selection(name)} for name in names for item in items]
    found = sorted(client.score(asked), key=lambda score: score.index)
    return [found[at : at + len(items)] for at in range(0, len(found), len(items))]


def _show_scores(
    names: Sequence[str], items: Sequence[Item], scores: Sequence[Sequence[ScoreResponse]], *, as_json: bool
) -> None:
    found = [_summary(name, row) for name, row in zip(names, scores, strict=True)]
    if as_json:
        output.say_json(found)
        return
    if len(items) > 1:
        output.show_table(
            ("item>", *(f"{name}>" for name in names)),
            ((index, *(f"{row[index].logprob:.4f}" for row in scores)) for index in range(len(items))),
        )
        output.say("")
    output.show_table(
        ("selection", "logprob>", "a token>", "perplexity>", "greedy>"),
        (
            (s["selection"], *(f"{s[key]:.4f}" for key in ("logprob", "per_token", "perplexity")), s["greedy"])
            for s in found
        ),
    )


def _summary(name: str, scores: Sequence[ScoreResponse]) -> dict[str, Any]:
    total = math.fsum(score.logprob for score in scores)
    tokens = sum(len(score.tokens) for score in scores)
    return {
        "selection": name,
        "logprob": total,
        "per_token": total / tokens if tokens else 0.0,
        "perplexity": perplexity(total / tokens) if tokens else 1.0,
        "greedy": sum(score.greedy for score in scores),
        "logprobs": [score.logprob for score in scores],
    }
