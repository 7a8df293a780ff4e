"""Blobs sent, read and tampered with at the blob service, without a wire.

Owns one blob of three blocks and its way in and out. Does not know what a test expects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import update

from adapter_registry.blobs.protocol import BLOCK_BYTES
from adapter_registry.service.stored import Piece
from adapter_registry.store.keeping import BlobRow
from lorry.format.digest import digest_of
from tests.support.blobs import blob
from tests.support.upkeep import Parts

# The last block is short.
DATA = blob(2 * BLOCK_BYTES + 17)
DIGEST = digest_of(DATA)


async def pieces(data: bytes, broken_at: int | None = None) -> AsyncIterator[Piece]:
    """As a sender would; where it is broken, the connection ends before the finish."""
    for at in range(0, len(data) if broken_at is None else broken_at, BLOCK_BYTES):
        yield Piece(at, memoryview(data)[at : min(at + BLOCK_BYTES, broken_at or len(data))])
    if broken_at is not None:
        raise ConnectionError


async def send(parts: Parts, namespace: str, data: bytes = DATA, **how: Any) -> bool:
    """Send; whether the bytes were not needed."""
    _, existed = await parts.blobs(how.pop("ledger", None)).receive(
        how.pop("digest", digest_of(data)), len(data), namespace, pieces(data, **how)
    )
    return existed


async def read(parts: Parts, offset: int = 0, limit: int = 0) -> bytes:
    return b"".join([bytes(piece.data) async for piece in parts.blobs().read(DIGEST, offset, limit)])


def used(parts: Parts, namespace: str) -> int:
    return parts.catalog.get_namespace(namespace).used_bytes


def write(parts: Parts, **values: Any) -> None:
    """Into the blob's row."""
    with parts.catalog._database.write() as session:
        session.execute(update(BlobRow).where(BlobRow.digest == DIGEST).values(**values))


async def read_until_it_fails(parts: Parts, sent: bytearray) -> None:
    """Read all; what came is in `sent`, whatever happens."""
    async for piece in parts.blobs().read(DIGEST, 0, 0):
        sent += piece.data
