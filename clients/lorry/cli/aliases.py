"""`lorry alias`: set, rollback, rm, ls, history.

Owns these five commands. The compare-and-swap behind `--expect` is the registry's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import INT64, Json, Name, Reference, registry

if TYPE_CHECKING:
    from lorry.v1.types_pb2 import Alias

app = typer.Typer(help="Movable names for versions.", rich_markup_mode=None)

AliasName = Annotated[str, typer.Argument(metavar="ALIAS")]
Expected = Annotated[
    int | None,
    typer.Option(
        "--expect",
        metavar="REVISION",
        min=0,
        max=INT64,
        help="Only where the alias has this revision; 0: it must not exist.",
    ),
]


@app.command("set")
def point(
    ctx: typer.Context, reference: Reference, alias: AliasName, *, expect: Expected = None, as_json: Json = False
) -> None:
    """Point an alias to a version."""
    with registry(ctx) as client:
        _tell(client.set_alias(reference, alias, expected_revision=expect), as_json=as_json)


@app.command()
def rollback(
    ctx: typer.Context, name: Name, alias: AliasName, *, expect: Expected = None, as_json: Json = False
) -> None:
    """Point an alias to where it pointed before its last move; a second time goes forth again."""
    with registry(ctx) as client:
        _tell(client.rollback_alias(name, alias, expected_revision=expect), as_json=as_json)


@app.command("rm")
def remove(ctx: typer.Context, name: Name, alias: AliasName, *, expect: Expected = None, as_json: Json = False) -> None:
    """Delete an alias; its history stays."""
    with registry(ctx) as client:
        client.delete_alias(name, alias, expected_revision=expect)
    if as_json:
        output.say_json({"deleted": alias})
    else:
        output.say(f"deleted {name}:{alias}")


@app.command("ls")
def list_all(ctx: typer.Context, name: Name, *, as_json: Json = False) -> None:
    """List the aliases of an adapter."""
    with registry(ctx) as client:
        _show(list(client.aliases(name)), as_json=as_json)


@app.command()
def history(ctx: typer.Context, name: Name, alias: AliasName, *, as_json: Json = False) -> None:
    """List the moves of an alias, newest first."""
    with registry(ctx) as client:
        _show(list(client.aliases(name, history_of=alias)), as_json=as_json)


def _tell(moved: Alias, *, as_json: bool) -> None:
    if as_json:
        output.say_json(moved)
    else:
        output.say(f"{moved.alias} -> @{moved.number}  {moved.digest}  (revision {moved.revision})")


def _show(aliases: list[Alias], *, as_json: bool) -> None:
    if as_json:
        output.say_json(aliases)
        return
    output.show_table(
        ("alias", "version>", "revision>", "moved", "digest"),
        (
            (a.alias, f"@{a.number}" if a.digest else "(deleted)", a.revision, output.moment(a.update_time), a.digest)
            for a in aliases
        ),
    )
