"""A registry with access control, TLS and two tenants: `ours`, who has something, and `theirs`, who wants it.

Owns who there is and what `ours` holds: two versions of an adapter with an alias and its history, a
lease, an upload that broke. Does not know which call should answer what.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio

from adapter_registry.app import registry
from adapter_registry.domain.acting import Permission, Rights
from adapter_registry.domain.principals import NewPrincipal
from adapter_registry.service.access import hash_of, new_token
from adapter_registry.settings import Settings
from adapter_registry.store.catalog import open_catalog
from adapter_registry.store.migrate import upgrade
from lorry import RegistryClient
from lorry.errors import UploadIncomplete
from lorry.format.digest import digest_of
from lorry.rpc.channel import open_channel
from lorry.v1 import blob_pb2, types_pb2
from tests.support.adapters import BASE_NAME, base_for, write_adapter
from tests.support.certificates import Authority
from tests.support.registry import Client
from tests.support.uploads import chunk

OPERATOR, OURS, THEIRS, EXPIRED, REVOKED = "operator", "ours", "theirs", "expired", "revoked"
BROKEN = b"what came of an upload" * 100
HOLDER = "gpu-of-ours"
PAST = datetime(2020, 1, 1, tzinfo=UTC)
_SCOPES = {OPERATOR: "*", OURS: OURS, THEIRS: THEIRS, EXPIRED: OURS, REVOKED: OURS}


def make_principals(settings: Settings) -> dict[str, str]:
    """Everybody's token by name; each administers one namespace, the operator all of them."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = settings.database
    upgrade(database)
    catalog = open_catalog(database)
    tokens = {name: new_token() for name in _SCOPES}
    for name, namespace in _SCOPES.items():
        rights = Rights({namespace: Permission.ADMIN})
        expires = PAST if name == EXPIRED else datetime.now(UTC) + timedelta(days=1)
        catalog.create_principal(NewPrincipal(name, rights, secret_hash=hash_of(tokens[name]), expires=expires))
    catalog.revoke_principal(REVOKED)
    catalog.close()
    return tokens


@dataclass
class World:
    """target, root: the registry's address and whom to trust there. held: the versions of `ours`, oldest
    first. mine: files of each tenant's own, sent already, by tenant.
    """

    target: str
    root: Path
    tokens: Mapping[str, str]
    held: list[types_pb2.Version] = field(default_factory=list)
    mine: dict[str, list[types_pb2.File]] = field(default_factory=dict)
    _channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def channel(self, name: str) -> grpc.aio.Channel:
        """The channel of somebody, known or not, over TLS; closed with the world."""
        if name not in self._channels:
            token = self.tokens.get(name, "")
            self._channels[name] = open_channel(self.target, token=token, root_certificates=self.root)
        return self._channels[name]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    def client(self, name: str) -> RegistryClient:
        return RegistryClient(self.target, token=self.tokens[name], root_certificates=self.root)

    def raw(self, name: str) -> Client:
        return Client(self.target, token=self.tokens[name], root_certificates=self.root)


@asynccontextmanager
async def guarded_registry(folder: Path, authority: Authority, **settings: Any) -> AsyncIterator[World]:
    """A registry with nothing in it but the principals."""
    pair = authority.server()
    fields = {"listen": "127.0.0.1:0", "data_dir": folder, "grace_seconds": 0, "auth": "required", **settings}
    chosen = Settings(tls_cert=pair.certificate, tls_key=pair.key, **fields)
    tokens = make_principals(chosen)
    async with registry(chosen) as target:
        world = World(target, authority.root, tokens)
        try:
            yield world
        finally:
            await world.close()


async def furnish(world: World, folder: Path) -> None:
    """Bases, what `ours` holds, and files that `theirs` may publish."""
    async with world.client(OPERATOR) as operator:
        await operator.register_base_model(BASE_NAME, base_for())
    async with world.client(OURS) as ours:
        for seed in (1, 2):
            directory = write_adapter(folder / f"ours-{seed}", seed=seed)
            world.held.append(await ours.push(directory, "ours/secret", base=BASE_NAME, alias="prod", parents=()))
    world.mine[OURS] = list(world.held[0].manifest.files)
    async with world.client(THEIRS) as theirs:
        version = await theirs.push(write_adapter(folder / "theirs", seed=9), "theirs/mine", parents=())
        world.mine[THEIRS] = list(version.manifest.files)
    async with world.raw(OURS) as raw:
        lease = f"ours/secret@{world.held[0].digest}"
        await raw.call("RenewLeases", holder=HOLDER, adapters=[lease])
        await _break_an_upload(raw)


async def _break_an_upload(raw: Client) -> None:
    header = blob_pb2.UploadHeader(digest=digest_of(BROKEN), size_bytes=len(BROKEN), namespace=OURS)
    with suppress(UploadIncomplete):
        await raw.send([blob_pb2.UploadRequest(header=header), chunk(0, BROKEN[:100])])
