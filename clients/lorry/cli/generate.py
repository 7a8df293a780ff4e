"""Text from a worker: `lorry generate` and the conversation `lorry chat`.

Owns how an answer streams to the terminal and what the conversation's own commands mean. The
conversation is kept here, and the worker sees all of it each time; which adapters it keeps, the worker does.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorry.cli import options, output
from lorry.cli.context import Active, Json, adapters, worker
from lorry.cli.exits import error_line
from lorry.errors import LorryError

if TYPE_CHECKING:
    from lorry.sync import Generation, WorkerClient

_HELP = "/adapter REF[=WEIGHT]... switches (none: the base), /exit leaves"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(generate)
    app.command()(chat)


def generate(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads it from standard input.")],
    *,
    adapter: Active = None,
    base_only: options.BaseOnly = False,
    route: options.Route = None,
    scale: options.Scale = None,
    affinity: options.Affinity = None,
    raw: options.Raw = False,
    system: options.System = "",
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.Penalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    json_schema: options.JsonSchema = None,
    regex: options.Regex = None,
    grammar: options.Grammar = None,
    tenant: options.Tenant = None,
    priority: options.Priority = None,
    begin_within: options.BeginWithin = None,
    as_json: Json = False,
) -> None:
    """Generate text under any selection of adapters: `lorry generate "Hello" -a pirate -a json=0.5`.

    With neither -a, --route nor --base-only the worker's route `default` decides.
    """
    with worker(ctx) as client:
        answer = client.generate(
            **options.asked(prompt, raw=raw, system=system),
            adapters=options.selection(adapter, base_only=base_only),
            route=route,
            scale=scale,
            affinity=affinity,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            **options.form(json_schema, regex, grammar),
            **options.turn(tenant, priority, begin_within),
        )
        _stream(answer, as_json=as_json)


def chat(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    *,
    adapter: Active = None,
    base_only: options.BaseOnly = False,
    route: options.Route = None,
    scale: options.Scale = None,
    affinity: options.Affinity = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Take what a route or an alias means at each turn, not at the first.")
    ] = False,
    system: options.System = "",
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    as_json: Json = False,
) -> None:
    """Talk with the model: /adapter REF... changes the adapters in mid-conversation, /exit leaves.

    The conversation is a session: it keeps its adapters even if the route or an alias moves meanwhile.
    """
    chosen: dict[str, Any] = {"adapters": options.selection(adapter, base_only=base_only), "route": route}
    drawn: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    kept: dict[str, Any] = {"session": uuid.uuid4().hex, "follow": follow, "scale": scale, "affinity": affinity}
    history = options.opening(system)
    with worker(ctx) as client:
        for line in _lines():
            if line.startswith("/adapter"):
                chosen = _switched(line) or chosen
            elif line.startswith("/"):
                output.note(_HELP)
            else:
                _turn(client, history, line, chosen | drawn | kept, as_json=as_json)


def _switched(line: str) -> dict[str, Any] | None:
    """What /adapter chooses; None, and told, where that is no selection."""
    try:
        return {"adapters": adapters(line.split()[1:])}
    except LorryError as error:
        output.note(error_line(error.reason, error.message))
        return None


def _turn(
    client: WorkerClient, history: list[tuple[str, str]], line: str, given: dict[str, Any], *, as_json: bool
) -> None:
    """One question and its answer; a refusal is told and the conversation goes on as if it had not been asked."""
    asked = [*history, ("user", line)]
    try:
        answer = _stream(client.generate(messages=asked, **given), as_json=as_json)
    except LorryError as error:
        output.note(error_line(error.reason, error.message))
        return
    history[:] = [*asked, ("assistant", answer)]


def _lines() -> Iterator[str]:
    """What is typed, up to /exit or the end of the input."""
    shown = sys.stdin.isatty()
    if shown:
        output.note(_HELP)
    while True:
        if shown:
            output.write("> ")
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return
        if line.strip():
            yield line.strip()


def _stream(answer: Generation, *, as_json: bool) -> str:
    """Show an answer as it comes; the whole of it. On a terminal, what served it goes to stderr."""
    pieces = []
    for message in answer:
        pieces.append(message.delta.text)
        if as_json:
            output.say_json(message)
        elif message.HasField("started"):
            _tell(f"[{output.selection(message.started.adapters)}, seed {message.started.seed}]")
            for digest in message.started.inactive:
                _tell(f"[{output.short(digest)} is not invoked by the prompt]")
        elif message.HasField("finished"):
            output.write("\n")
            finished = message.finished
            _tell(f"[{finished.completion_tokens} tokens, {output.enum_word(finished, 'reason')}]")
        else:
            output.write(message.delta.text)
    return "".join(pieces)


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        output.note(line)
