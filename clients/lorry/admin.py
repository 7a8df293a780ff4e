"""What an operator does with a registry: one method a call of AdminService.

Owns the pythonic spelling. Answers are the messages of lorry.v1. Does not judge rights; the registry
does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from lorry.connection import SILENCE_SECONDS, Connection, received
from lorry.rpc.credentials import Credentials
from lorry.v1 import admin_pb2 as pb
from lorry.v1.admin_pb2_grpc import AdminServiceStub

# A collection deletes hundreds of blobs a second; this is for millions.
_GARBAGE_SECONDS = 3_600.0


class AdminCalls(Connection):
    """AdminService. Every method raises what its rpc documents, as a class of lorry.errors."""

    def __init__(self, address: str, *, timeout: float, **credentials: Unpack[Credentials]) -> None:
        super().__init__(address, timeout=timeout, **credentials)
        self._admin = AdminServiceStub(self._channel)

    async def namespace(self, name: str) -> pb.Namespace:
        """Limits, policy and use of one namespace."""
        return (await self._call(self._admin.GetNamespace, pb.GetNamespaceRequest(namespace=name))).namespace

    def namespaces(self) -> AsyncIterator[pb.Namespace]:
        """All namespaces that hold something or have limits, by name."""
        return self._listed(self._admin.ListNamespaces, pb.ListNamespacesRequest(), lambda page: page.namespaces)

    async def update_namespace(
        self,
        name: str,
        *,
        max_bytes: int | None = None,
        max_versions: int | None = None,
        trusted_keys: Sequence[str] | None = None,
        revision: int = 0,
    ) -> pb.Namespace:
        """Write what is not None; a limit of 0 lifts it, no keys ask for no signatures.

        trusted_keys: Ed25519 public keys in PEM. revision: the stored one, 0 for any. Raises RevisionConflict.
        """
        given = {"max_bytes": max_bytes, "max_versions": max_versions, "trusted_keys": trusted_keys}
        paths = [field for field, value in given.items() if value is not None]
        wanted = pb.Namespace(
            name=name,
            max_bytes=max_bytes or 0,
            max_versions=max_versions or 0,
            trusted_keys=trusted_keys,
            revision=revision,
        )
        request = pb.UpdateNamespaceRequest(namespace=wanted, update_mask=FieldMask(paths=paths))
        return (await self._call(self._admin.UpdateNamespace, request)).namespace

    async def collect_garbage(
        self, *, dry_run: bool = False, grace: timedelta | None = None
    ) -> pb.CollectGarbageResponse:
        """Sweep what nobody names; with `dry_run` say what would be swept.

        grace: how long what nobody names is kept, None for the registry's setting. Has an hour, whatever
        the client's deadline is; where it is cut, the next run goes on from there. Raises AlreadyRunning.
        """
        request = pb.CollectGarbageRequest(dry_run=dry_run)
        if grace is not None:
            request.grace.FromTimedelta(grace)
        patient = self.within(_GARBAGE_SECONDS)
        return await patient._call(self._admin.CollectGarbage, request)  # noqa: SLF001 - a copy of our own

    async def fsck(self) -> AsyncIterator[pb.FsckResponse]:
        """Hash every stored byte: findings as they come, and how far the check is, at last that it is done.

        Raises AlreadyRunning, and Unavailable where the registry falls silent.
        """
        async with aclosing(received(self._admin.Fsck(pb.FsckRequest()), silence=SILENCE_SECONDS)) as reports:
            async for report in reports:
                yield report
