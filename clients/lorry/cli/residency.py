"""What a worker holds: load, unload, pin, ps, caps.

Owns what these commands print. Tiers, budgets and eviction are the worker's.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, Reference, worker

if TYPE_CHECKING:
    from lorry.v1.residency_pb2 import Resident


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (load, unload, pin, ps, caps):
        app.command()(command)


def load(
    ctx: typer.Context,
    reference: Reference,
    *,
    tier: Annotated[str, typer.Option(metavar="TIER", help="pool, or ahead of time: host or disk.")] = "pool",
    as_json: Json = False,
) -> None:
    """Bring an adapter into the pool, so that the first request finds it there; or nearer to it, ahead of time."""
    with worker(ctx) as client, output.spinner(f"loading {reference}"):
        resident = client.load(reference, tier=tier)
    _tell(resident, as_json=as_json)


def unload(ctx: typer.Context, reference: Reference, *, as_json: Json = False) -> None:
    """Drop an adapter from the pool and from memory."""
    with worker(ctx) as client:
        gone = client.unload(reference)
    if as_json:
        output.say_json(gone)
    else:
        output.say(f"unloaded {gone.digest}" if gone.was_resident else f"{gone.digest} was not resident")


def pin(
    ctx: typer.Context,
    reference: Reference,
    *,
    off: Annotated[bool, typer.Option("--off", help="Let it go.")] = False,
    ttl: Annotated[float | None, typer.Option(metavar="SECONDS", help="How long; unset: until --off.")] = None,
    as_json: Json = False,
) -> None:
    """Keep an adapter from eviction."""
    with worker(ctx) as client:
        resident = client.unpin(reference) if off else client.pin(reference, ttl=_span(ttl))
    _tell(resident, as_json=as_json)


def ps(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List what is resident: tier, hits, who uses it."""
    with worker(ctx) as client:
        residents = list(client.residents())
    if as_json:
        output.say_json(residents)
        return
    output.show_table(
        ("adapter", "tier", "rank>", "variant", "size>", "hits>", "loads>", "leases>", "pinned", "digest"),
        (_row(resident) for resident in residents),
    )


def caps(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Show what the worker can serve, and how much of its budgets is used."""
    with worker(ctx) as client:
        known = client.capabilities()
    if as_json:
        output.say_json(known)
        return
    variants = known.DESCRIPTOR.fields_by_name["variants"]
    output.show_facts(
        (
            ("base", f"{known.base_model}  {known.base_id}"),
            ("runs on", f"{known.device}, {known.dtype}, {known.executor}"),
            ("variants", " ".join(output.word(variants, number) for number in known.variants)),
            ("and", " ".join(known.features)),
            ("largest rank", known.max_rank),
            ("adapters in one selection", known.max_adapters_per_selection),
            ("longest context", f"{known.max_context_tokens} tokens"),
            ("combines by", " ".join(known.combine_methods)),
            ("version", known.version),
        )
    )
    output.show_table(("budget", "used>", "limit>"), ((b.name, b.used, b.limit) for b in known.budgets))


def _span(seconds: float | None) -> timedelta | None:
    try:
        return None if seconds is None else timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise typer.BadParameter(f"--ttl: expected seconds, got {seconds}") from None


def _tell(resident: Resident, *, as_json: bool) -> None:
    if as_json:
        output.say_json(resident)
    else:
        pinned = "  pinned" if resident.pinned else ""
        output.say(f"{resident.digest}  {output.enum_word(resident, 'tier')}  rank {resident.rank}{pinned}")


def _row(resident: Resident) -> tuple[object, ...]:
    return (
        next(iter(resident.names), "(combined)" if resident.combined else ""),
        output.enum_word(resident, "tier"),
        resident.rank,
        output.enum_word(resident, "variant"),
        output.size(resident.size_bytes),
        resident.hits,
        resident.loads,
        resident.leases,
        "pinned" if resident.pinned else "",
        output.short(resident.digest),
    )
