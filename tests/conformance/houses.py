"""The registries that the suite runs on in `make test`: one for each pair of stores, one with access control.

Owns their start and stop, once for each process of the run. Does not know what the suite does with them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.settings import Settings
from lorry.rpc.credentials import Credentials
from tests.support.certificates import Authority
from tests.support.postgres import PostgresServer
from tests.support.registry import registry_process
from tests.support.tenants import OPERATOR, make_principals

# What a guest calls it with: the address, and what is shown and trusted there.
Door = tuple[str, Credentials]


@dataclass
class Street:
    """The houses that somebody asked for, each opened once."""

    folder: Path
    postgres: PostgresServer
    s3: S3Settings
    stack: ExitStack
    _open: dict[str, Door] = field(default_factory=dict)

    def door(self, name: str) -> Door:
        if name not in self._open:
            self._open[name] = HOUSES[name](self)
        return self._open[name]

    def serve(self, name: str, **settings: str) -> str:
        """A registry on a folder of that name, in a process of its own."""
        # Garbage is collected when the suite asks for it: two collections at once refuse each other.
        environment = {f"LORRY_REGISTRY_{key}": value for key, value in {"GC_SECONDS": "0", **settings}.items()}
        return self.stack.enter_context(registry_process(self.folder / name, **environment)).target


def plain(street: Street) -> Door:
    """SQLite and files."""
    return street.serve("plain"), {}


def shared(street: Street) -> Door:
    """PostgreSQL and S3."""
    target = street.serve(
        "shared",
        DATABASE_URL=street.stack.enter_context(street.postgres.migrated()),
        BLOBS=f"s3://conformance-{uuid.uuid4().hex}/prefix",
        S3_ENDPOINT=str(street.s3.endpoint),
        S3_ACCESS_KEY_ID=str(street.s3.access_key_id),
        S3_SECRET_ACCESS_KEY=str(street.s3.secret_access_key),
    )
    return target, {}


def guarded(street: Street) -> Door:
    """SQLite and files, TLS, and a token that administers everything."""
    authority = Authority(street.folder / "certificates")
    pair = authority.server()
    tokens = make_principals(Settings(data_dir=street.folder / "guarded"))
    target = street.serve("guarded", AUTH="required", TLS_CERT=str(pair.certificate), TLS_KEY=str(pair.key))
    return target, {"token": tokens[OPERATOR], "root_certificates": authority.root}


HOUSES = {"sqlite+files": plain, "postgres+s3": shared, "access control": guarded}


@contextmanager
def street(folder: Path, postgres: PostgresServer, s3: S3Settings) -> Iterator[Street]:
    """All of them, closed at the end."""
    with ExitStack() as stack:
        yield Street(folder, postgres, s3, stack)
