"""What every command shares: the two addresses, the credentials, the clients, and the options' spellings.

Owns the global options' meaning. Clients are imported on use: `lorry --help` loads no gRPC.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.errors import InvalidInput

if TYPE_CHECKING:
    from lorry import sync
    from lorry.rpc.credentials import Credentials
    from lorry.selection import Adapters

REGISTRY = "127.0.0.1:7471"
WORKER = "127.0.0.1:7472"
# Never an option's value: every process of the machine can read those.
TOKEN_VARIABLE = "LORRY_TOKEN"  # noqa: S105 - the name of a variable

# The largest numbers of the contract.
INT32, INT64 = 2**31 - 1, 2**63 - 1

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
    """Where the two services are, and what is shown and trusted there: see lorry.rpc.credentials."""

    registry: str
    worker: str
    token_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> Credentials:
        """Raises what `text_of` raises of the token's file, BadParameter where options do not go together."""
        if (self.cert is None) != (self.key is None):
            raise typer.BadParameter("expected --cert and --key together")
        given: Credentials = {}
        token = os.environ.get(TOKEN_VARIABLE, "")
        if self.token_file is not None:
            token = text_of(self.token_file).strip()
        if token:
            given["token"] = token
        if self.ca is not None:
            given["root_certificates"] = self.ca
        if self.cert is not None and self.key is not None:
            given["certificate"] = (self.cert, self.key)
        return given


def registry(ctx: typer.Context) -> sync.RegistryClient:
    """A client of the registry that the global options name."""
    from lorry.sync import RegistryClient

    addresses = _addresses(ctx)
    return RegistryClient(addresses.registry, **addresses.credentials())


def worker(ctx: typer.Context) -> sync.WorkerClient:
    """A client of the worker that the global options name."""
    from lorry.sync import WorkerClient

    addresses = _addresses(ctx)
    return WorkerClient(addresses.worker, **addresses.credentials())


def text_of(path: Path) -> str:
    """What a file says. Raises InvalidInput, OSError."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: expected text in UTF-8: {error}") from error


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
