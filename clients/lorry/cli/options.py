"""How a prompt, its sampling and its end are asked for on the command line; shared by its commands.

Owns the options' spelling. What is not given is left to the worker.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorry.cli.context import adapters, text_of

if TYPE_CHECKING:
    from lorry.selection import Adapters

Route = Annotated[str | None, typer.Option(metavar="NAME", help="Use the selection of this route.")]
BaseOnly = Annotated[bool, typer.Option("--base-only", help="No adapter at all, whatever the default route says.")]
Affinity = Annotated[str | None, typer.Option(metavar="KEY", help="Decides about a route's branch: a user's id.")]
Scale = Annotated[float | None, typer.Option(help="A factor on the weights of all adapters.")]
Raw = Annotated[bool, typer.Option("--raw", help="Go on with the text as it is, without a chat template.")]
System = Annotated[str, typer.Option(help="A system message before the conversation.")]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", "-n", min=1)]
Temperature = Annotated[float | None, typer.Option("--temperature", "-t", help="Greedy where not given.")]
Seed = Annotated[int | None, typer.Option(min=0, help="For a repeat; the worker tells the one that it drew.")]
TopK = Annotated[int | None, typer.Option(min=0)]
TopP = Annotated[float | None, typer.Option()]
MinP = Annotated[float | None, typer.Option()]
Penalty = Annotated[float | None, typer.Option("--repetition-penalty")]
Tenant = Annotated[str | None, typer.Option(metavar="NAME", help="Who shares the worker fairly with other tenants.")]
Priority = Annotated[
    int | None, typer.Option(min=-10, max=10, help="Among the tenant's own requests; larger is first.")
]
BeginWithin = Annotated[float | None, typer.Option(metavar="SECONDS", help="Give up what has not begun by then.")]
Stop = Annotated[list[str] | None, typer.Option(help="A string that ends the text; may be given several times.")]
JsonSchema = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="The answer is JSON of this schema.")
]
Regex = Annotated[str | None, typer.Option(help="The whole answer matches this regular expression.")]
Grammar = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="The answer is of this grammar (Lark).")
]


def opening(system: str) -> list[tuple[str, str]]:
    """How a conversation begins."""
    return [("system", system)] if system else []


def asked(prompt: str, *, raw: bool, system: str) -> dict[str, Any]:
    """The prompt, read from standard input where it is `-`: as it is, or as a conversation."""
    text = sys.stdin.read() if prompt == "-" else prompt
    return {"prompt": text} if raw else {"messages": [*opening(system), ("user", text)]}


def form(json_schema: Path | None, regex: str | None, grammar: Path | None) -> dict[str, Any]:
    """The form of the answer as options of a generation."""
    files = {"json_schema": json_schema, "grammar": grammar}
    read = {name: text_of(path) for name, path in files.items() if path is not None}
    return {**read, "regex": regex}


def selection(given: list[str] | None, *, base_only: bool) -> Adapters | None:
    """The adapters of -a and --base-only; None where neither is given. Raises BadParameter on both."""
    if given and base_only:
        raise typer.BadParameter("expected --adapter or --base-only, got both")
    return adapters(given) if given or base_only else None


def turn(tenant: str | None, priority: int | None, begin_within: float | None) -> dict[str, Any]:
    """Whose turn it is, as keywords of `generate`."""
    return {"tenant": tenant, "priority": priority, "begin_within": begin_within}
