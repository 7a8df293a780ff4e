"""Builders and shorthands for the tests of blob stores. Know only the Protocols."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from blake3 import blake3

from adapter_registry.blobs.protocol import BLOCK_BYTES, BlobStore, Upload
from lorry.format.digest import digest_of

CHUNK = 1 << 20


@dataclass(frozen=True)
class Place:
    """A storage. open: a new store object on it, as another process would. granule: what a broken
    upload keeps is a multiple of so many bytes. damage: change a byte of a visible blob behind every
    store's back."""

    open: Callable[[], BlobStore]
    granule: int
    damage: Callable[[str], None]

    @property
    def large(self) -> int:
        """Size of a blob of two granules and some bytes."""
        return 2 * self.granule + 100_000


@cache
def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - bytes to store, the same in each run


def flipped(data: bytes) -> bytes:
    """The bytes, the first of them changed by a bit."""
    return bytes([data[0] ^ 1]) + data[1:]


def damage_file(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes()))


def block_hashes(data: bytes) -> bytes:
    """What Upload.blocks must be."""
    pieces = (data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
    return b"".join(blake3(piece).digest() for piece in pieces)


def put(store: BlobStore, data: bytes, chunk: int = CHUNK, owner: str = "") -> str:
    digest = digest_of(data)
    upload = store.upload(digest, len(data), owner)
    feed(upload, data, chunk)
    upload.finish()
    upload.close()
    return digest


def feed(upload: Upload, data: bytes, chunk: int = CHUNK) -> None:
    """Send what the upload has not got yet."""
    for at in range(upload.committed, len(data), chunk):
        upload.write(at, memoryview(data)[at : at + chunk])


def read(store: BlobStore, digest: str, offset: int = 0, limit: int = 0, chunk: int = CHUNK) -> bytes:
    opened = store.open(digest)
    try:
        return join(opened.chunks(offset, limit, chunk))
    finally:
        opened.close()


def join(pieces: Iterable[bytes | memoryview]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)
