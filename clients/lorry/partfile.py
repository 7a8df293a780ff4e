"""A file on its way in: bytes under a temporary name, hashed as they come, renamed when verified.

Owns the order fsync(file), rename, fsync(folder). Does not know where the bytes come from.
Blocking: call it from a thread.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Protocol

from lorry.errors import DigestMismatch
from lorry.format.digest import Hasher


class Sink(Protocol):
    """Where the bytes of a download go, in order. Blocking, but for `position` and `size`."""

    @property
    def size(self) -> int:
        """Bytes that it takes in all."""

    @property
    def position(self) -> int:
        """Bytes that are there."""

    def append(self, offset: int, data: bytes | memoryview) -> None:
        """Take the bytes at the present position. Raises DigestMismatch where they cannot belong there."""

    def restart(self) -> None:
        """Forget what came."""

    def commit(self) -> None:
        """All bytes are there: verify them. Raises DigestMismatch."""


class PartFile:
    """`size` bytes of `digest` that become the file `into`; until then nothing is visible there."""

    def __init__(self, into: Path, digest: str, size: int) -> None:
        into.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp: its 0600 would keep what one user pulled from everybody else's training.
        self._temporary = into.with_name(f".{into.name}.{secrets.token_hex(8)}.part")
        self._file = self._temporary.open("xb")
        self._into = into
        self._digest = digest
        self._hasher = Hasher()
        self.size = size
        self.position = 0

    def append(self, offset: int, data: bytes | memoryview) -> None:
        """Take the bytes at the present position. Raises DigestMismatch where they cannot belong there."""
        if offset != self.position or offset + len(data) > self.size:
            raise DigestMismatch(
                f"{self._into.name}: expected bytes at {self.position} of {self.size}, "
                f"got {len(data)} bytes at {offset}"
            )
        self._file.write(data)
        self._hasher.update(data)
        self.position += len(data)

    def restart(self) -> None:
        """Forget what came."""
        self._file.seek(0)
        self._file.truncate()
        self._hasher = Hasher()
        self.position = 0

    def commit(self) -> None:
        """Verify, make durable, make visible. Raises DigestMismatch."""
        self._hasher.verify(self._digest)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._into)
        sync_folder(self._into.parent)

    def discard(self) -> None:
        """Let go; what was not committed is gone."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
