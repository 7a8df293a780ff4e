"""`lorry switch` and `lorry routes`: what callers get who name no adapter.

Owns these two commands. The swap and its revision are the worker's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, adapters, worker

if TYPE_CHECKING:
    from lorry.v1.inference_pb2 import Route


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(switch)
    app.command()(routes)


def switch(
    ctx: typer.Context,
    selection: Annotated[
        list[str] | None, typer.Argument(metavar="[REF[=WEIGHT]]...", help="The new adapters; none: the base alone.")
    ] = None,
    *,
    route: Annotated[str, typer.Option(metavar="NAME", help="Route to switch.")] = "default",
    expect: Annotated[
        int | None,
        typer.Option(metavar="REVISION", help="Only where the route has this revision; 0: it must not exist."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a route a new selection; requests in flight keep theirs."""
    with worker(ctx) as client:
        now = client.switch(adapters(selection), route=route, expected_revision=expect)
    if as_json:
        output.say_json(now)
    else:
        output.say(f"{now.name} -> {output.selection(now.adapters)}  (revision {now.revision})")


def routes(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List the routes."""
    with worker(ctx) as client:
        found = list(client.routes())
    if as_json:
        output.say_json(found)
    else:
        output.show_table(("route", "revision>", "switched", "adapters"), (_row(route) for route in found))


def _row(route: Route) -> tuple[object, ...]:
    return (route.name, route.revision, output.moment(route.update_time), output.selection(route.adapters))
