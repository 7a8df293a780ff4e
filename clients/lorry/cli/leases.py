"""`lorry leases`: who uses an adapter's versions now.

Owns what the command prints. How long a lease holds is told by who holds it.
"""

from __future__ import annotations

import typer

from lorry.cli import output
from lorry.cli.context import Json, Name, registry


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(leases)


def leases(ctx: typer.Context, name: Name, *, as_json: Json = False) -> None:
    """List who uses an adapter's versions now; these are not deleted unless forced."""
    with registry(ctx) as client:
        held = list(client.leases(name))
    if as_json:
        output.say_json(held)
        return
    output.show_table(
        ("holder", "version>", "expires", "digest"),
        ((lease.holder, f"@{lease.number}", output.moment(lease.expire_time), lease.digest) for lease in held),
    )
