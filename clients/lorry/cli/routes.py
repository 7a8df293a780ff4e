"""`lorry switch` and `lorry route`: what callers get who name no adapter.

Owns these commands and how branches are written on the command line. The swap, its revision and its
history are the worker's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import INT64, Json, adapters, worker

if TYPE_CHECKING:
    from lorry.selection import Adapters
    from lorry.v1.inference_pb2 import Route

app = typer.Typer(help="Routes: named pointers that requests may use instead of adapters.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="ROUTE", help="Name of the route.")]
Expect = Annotated[
    int | None,
    typer.Option(
        metavar="REVISION", min=0, max=INT64, help="Only where the route has this revision; 0: it must not exist."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command that is not about routes by name."""
    app.command()(switch)


def switch(
    ctx: typer.Context,
    selection: Annotated[
        list[str] | None, typer.Argument(metavar="[REF[=WEIGHT]]...", help="The new adapters; none: the base alone.")
    ] = None,
    *,
    route: Annotated[str, typer.Option(metavar="NAME", help="Route to switch.")] = "default",
    expect: Expect = None,
    as_json: Json = False,
) -> None:
    """Give a route a new selection; requests in flight keep theirs."""
    with worker(ctx) as client:
        now = client.switch(adapters(selection), route=route, expected_revision=expect)
    _tell(now, as_json=as_json)


@app.command("set")
def set_(
    ctx: typer.Context,
    name: Name,
    *,
    branch: Annotated[
        list[str] | None,
        typer.Option(metavar="BRANCH=[REF[=WEIGHT],...]", help="A branch; without adapters it is the base alone."),
    ] = None,
    share: Annotated[
        list[str] | None, typer.Option(metavar="BRANCH=NUMBER", help="Its share, relative to the others; 1 if unset.")
    ] = None,
    expect: Expect = None,
    as_json: Json = False,
) -> None:
    """Give a route several branches, or (without --branch) its branches other shares: `--share canary=0.1`."""
    shares = dict(_share(text) for text in share or ())
    with worker(ctx) as client:
        if branch:
            now = client.split(_branches(branch, shares), route=name, expected_revision=expect)
        elif shares and expect is None:
            now = client.share(shares, route=name)
        else:
            raise typer.BadParameter("expected --branch, or --share alone (which checks the revision itself)")
    _tell(now, as_json=as_json)


@app.command("ls")
def list_(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List the routes."""
    with worker(ctx) as client:
        found = list(client.routes())
    _table(found, as_json=as_json)


@app.command()
def show(ctx: typer.Context, name: Name, *, as_json: Json = False) -> None:
    """Show one route: its branches, their shares, and what serves them."""
    with worker(ctx) as client:
        route = client.route(name)
    if as_json:
        output.say_json(route)
        return
    changed = f"{output.moment(route.update_time)}, {_how(route)}"
    output.show_facts([("route", route.name), ("revision", route.revision), ("changed", changed)])
    total = sum(target.share for target in route.targets)
    rows = [(t.name, f"{t.share / total:.2%}", output.selection(t.adapters), t.selection_digest) for t in route.targets]
    output.show_table(("branch", "share>", "adapters", "selection"), rows)


@app.command()
def history(ctx: typer.Context, name: Name, *, as_json: Json = False) -> None:
    """List the revisions of a route that are kept, newest first."""
    with worker(ctx) as client:
        revisions = list(client.route_history(name))
    _table(revisions, as_json=as_json)


@app.command()
def rollback(
    ctx: typer.Context,
    name: Name,
    *,
    revision: Annotated[
        int, typer.Option(metavar="REVISION", help="Which; the one before if unset.", min=0, max=INT64)
    ] = 0,
    expect: Expect = None,
    as_json: Json = False,
) -> None:
    """Give a route the branches of an earlier revision again, by digest; a second time goes forth."""
    with worker(ctx) as client:
        now = client.rollback_route(name, revision, expected_revision=expect)
    _tell(now, as_json=as_json)


@app.command()
def rm(ctx: typer.Context, name: Name, *, expect: Expect = None, as_json: Json = False) -> None:
    """Remove a route; requests in flight go on."""
    with worker(ctx) as client:
        client.delete_route(name, expected_revision=expect)
    if as_json:
        output.say_json({"removed": name})
    else:
        output.say(f"removed {name}")


def _share(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise typer.BadParameter(f"--share: expected BRANCH=NUMBER, got {text!r}") from None


def _branches(given: Iterable[str], shares: dict[str, float]) -> dict[str, tuple[float, Adapters]]:
    split = [text.partition("=") for text in given]
    named: dict[str, tuple[float, Adapters]] = {}
    for name, equals, selection in split:
        if not equals or name in named:
            raise typer.BadParameter(f"--branch: expected BRANCH=[REF[=WEIGHT],...] once a branch, got {name!r}")
        named[name] = (shares.get(name, 1.0), adapters([one for one in selection.split(",") if one]))
    if unknown := shares.keys() - named.keys():
        raise typer.BadParameter(f"--share: expected a branch that is given, got {', '.join(sorted(unknown))}")
    return named


def _tell(now: Route, *, as_json: bool) -> None:
    if as_json:
        output.say_json(now)
    else:
        output.say(f"{now.name} -> {_branched(now)}  (revision {now.revision})")


def _table(routes: list[Route], *, as_json: bool) -> None:
    if as_json:
        output.say_json(routes)
        return
    rows = [(r.name, r.revision, output.moment(r.update_time), _how(r), _branched(r)) for r in routes]
    output.show_table(("route", "revision>", "changed", "how", "adapters"), rows)


def _branched(route: Route) -> str:
    if len(route.targets) == 1:
        return output.selection(route.adapters)
    total = sum(target.share for target in route.targets)
    return " | ".join(f"{t.name} {t.share / total:.2%}: {output.selection(t.adapters)}" for t in route.targets)


def _how(route: Route) -> str:
    change = output.enum_word(route, "change")
    return f"{change} by {route.principal}" if route.principal else change
