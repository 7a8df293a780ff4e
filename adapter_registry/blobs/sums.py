"""The two sums of a blob: its digest (sha256, the name of it), and BLAKE3 of each of its blocks.

Owns that both are taken of the same bytes in one pass, however the bytes are cut. Both are cryptographic;
BLAKE3 is for blocks, which nobody but this registry sees, since it takes half of the time of sha256 and
every byte that leaves is hashed by it. Does not know where the bytes come from or go to.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from adapter_registry.blobs.protocol import BLOCK_BYTES
from lorry.format.digest import Hasher

# Length of the sum of a block.
SUM_BYTES = blake3.digest_size


def block_sum(block: bytes | memoryview) -> bytes:
    """The sum of one block."""
    return blake3(block).digest()


class Sums:
    """Grows with the bytes: 32 bytes for each block, whatever the chunks."""

    def __init__(self) -> None:
        self._whole = Hasher()
        self._block = blake3()
        self._room = BLOCK_BYTES
        self._full = bytearray()

    def update(self, data: bytes | memoryview) -> None:
        """Take more bytes."""
        self._whole.update(data)
        rest = memoryview(data)
        while rest:
            piece, rest = rest[: self._room], rest[self._room :]
            self._block.update(piece)
            self._room -= len(piece)
            if not self._room:
                self._full += self._block.digest()
                self._block, self._room = blake3(), BLOCK_BYTES

    def verify(self, digest: str) -> None:
        """Raise DigestMismatch where the bytes are not those of the digest."""
        self._whole.verify(digest)

    @property
    def blocks(self) -> bytes:
        """BLAKE3 of each block so far, side by side; the last block may be shorter."""
        last = self._block.digest() if self._room < BLOCK_BYTES else b""
        return bytes(self._full) + last


def is_sound(digest: str, pieces: Iterable[bytes | memoryview]) -> bool:
    """Whether the pieces hash to the digest. Raises what reading them raises."""
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest == digest
