"""The `lorry` application: global options and the list of commands.

Owns the command line's shape. What a command does is in its module; each imports what it needs when
it runs, so that `lorry --help` stays fast.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from lorry.cli import (
    access,
    admin,
    aliases,
    bases,
    catalog,
    combine,
    compare,
    generate,
    interpolate,
    keys,
    leases,
    lineage,
    namespaces,
    residency,
    routes,
    score,
    transfer,
)
from lorry.cli.context import REGISTRY, WORKER, Addresses
from lorry.cli.exits import table, telling

# \b: click's mark for a paragraph whose lines stay as they are.
_EPILOG = f"""
Adapters are written [namespace/]name, with @number, :alias or @sha256:... behind it; `-a name=0.5` gives one a weight.
Errors are one line on stderr, `error: REASON: message`. LORRY_TOKEN, or the file of --token-file, holds the token.

\b
Exit codes:
{table()}
"""

app = typer.Typer(
    name="lorry",
    help="Adapters: keep them in a registry, serve any mix of them from a worker.",
    epilog=_EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in the help are brackets; and rich takes 50 ms to load
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer hands the option's value by position
    if wanted:
        typer.echo(f"lorry {version('lorry')}")
        raise typer.Exit


def _file(variable: str, about: str) -> Any:
    return typer.Option(envvar=variable, metavar="FILE", exists=True, dir_okay=False, help=about)


@app.callback()
def _configure(  # noqa: PLR0913 - the global options
    ctx: typer.Context,
    *,
    registry: Annotated[
        str, typer.Option(envvar="LORRY_REGISTRY", metavar="HOST:PORT", help="The adapter registry.")
    ] = REGISTRY,
    worker: Annotated[
        str, typer.Option(envvar="LORRY_WORKER", metavar="HOST:PORT", help="The compute worker.")
    ] = WORKER,
    token_file: Annotated[Path | None, _file("LORRY_TOKEN_FILE", "A file that holds the token to show.")] = None,
    ca: Annotated[Path | None, _file("LORRY_CA", "Use TLS, and trust servers that these sign (PEM).")] = None,
    cert: Annotated[Path | None, _file("LORRY_CERT", "The client certificate to show (PEM), beside --key.")] = None,
    key: Annotated[Path | None, _file("LORRY_KEY", "The key of --cert (PEM).")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Name the request in errors, for the server's log.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    telling.verbose = verbose
    ctx.obj = Addresses(registry=registry, worker=worker, token_file=token_file, ca=ca, cert=cert, key=key)


for _module in (
    access,
    admin,
    transfer,
    keys,
    catalog,
    lineage,
    leases,
    generate,
    interpolate,
    routes,
    combine,
    score,
    compare,
    residency,
):
    _module.register(app)
app.add_typer(aliases.app, name="alias")
app.add_typer(bases.app, name="base")
app.add_typer(namespaces.app, name="namespace")
app.add_typer(access.tokens, name="token")
app.add_typer(keys.app, name="key")
app.add_typer(routes.app, name="route")
