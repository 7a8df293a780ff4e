"""How a prompt, its sampling and its end are asked for on the command line; shared by generate and chat.

Owns the options' spelling. What is not given is left to the worker.
"""

from __future__ import annotations

from typing import Annotated

import typer

Route = Annotated[str | None, typer.Option(metavar="NAME", help="Use the selection of this route.")]
BaseOnly = Annotated[bool, typer.Option("--base-only", help="No adapter at all, whatever the default route says.")]
System = Annotated[str, typer.Option(help="A system message before the conversation.")]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", "-n", min=1)]
Temperature = Annotated[float | None, typer.Option("--temperature", "-t", help="Greedy where not given.")]
Seed = Annotated[int | None, typer.Option(min=0, help="For a repeat; the worker tells the one that it drew.")]
TopK = Annotated[int | None, typer.Option(min=0)]
TopP = Annotated[float | None, typer.Option()]
MinP = Annotated[float | None, typer.Option()]
Penalty = Annotated[float | None, typer.Option("--repetition-penalty")]
Stop = Annotated[list[str] | None, typer.Option(help="A string that ends the text; may be given several times.")]
