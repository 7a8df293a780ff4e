"""What every command shares: the two addresses, the clients, and the options' spellings.

Owns the global options' meaning. Clients are imported on use: `lorry --help` loads no gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lorry import sync
    from lorry.selection import Adapters

REGISTRY = "127.0.0.1:7471"
WORKER = "127.0.0.1:7472"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document; for a stream, one a line.")]
Reference = Annotated[
    str, typer.Argument(metavar="REF", help="[namespace/]name, with @number, :alias or @sha256:... behind it.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="[namespace/]name of an adapter.")]
Active = Annotated[
    list[str] | None,
    typer.Option("--adapter", "-a", metavar="REF[=WEIGHT]", help="An active adapter; may be given several times."),
]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be given several times.")]
Folder = Annotated[Path, typer.Argument(exists=True, file_okay=False, metavar="DIR")]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the two services are."""

    registry: str
    worker: str


def registry(ctx: typer.Context) -> sync.RegistryClient:
    """A client of the registry that the global options name."""
    from lorry.sync import RegistryClient

    return RegistryClient(_addresses(ctx).registry)


def worker(ctx: typer.Context) -> sync.WorkerClient:
    """A client of the worker that the global options name."""
    from lorry.sync import WorkerClient

    return WorkerClient(_addresses(ctx).worker)


def adapters(given: list[str] | None) -> Adapters:
    """The adapters of `-a` options. Raises InvalidSelection."""
    from lorry.selection import parse_weighted

    return [parse_weighted(text) for text in given or ()]


def pairs(given: list[str] | None) -> dict[str, str]:
    """KEY=VALUE options as a mapping."""
    split = [text.partition("=") for text in given or ()]
    for key, equals, _ in split:
        if not equals:
            raise typer.BadParameter(f"expected KEY=VALUE, got {key!r}")
    return {key: value for key, _, value in split}


def _addresses(ctx: typer.Context) -> Addresses:
    addresses = ctx.find_object(Addresses)
    if addresses is None:
        raise RuntimeError("the application's callback sets the addresses before any command runs")
    return addresses
