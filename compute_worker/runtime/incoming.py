"""A file on its way into the disk cache, or out of it: hashed, and looked at, in one pass over its bytes.

Owns what of a file is believed: nothing before its digest was verified. Nothing is synced: whatever lies
in the cache is hashed again before it is used. Blocking: call it from a thread. Does not know where bytes
come from, nor what somebody sees in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Protocol

from lorry.errors import DigestMismatch
from lorry.format.digest import Hasher
from lorry.format.manifest import ManifestFile
from lorry.partfile import Sink

# One read; large enough that the call costs nothing beside the hashing, small enough to stay in a core's cache.
_CHUNK = 1 << 18
# Of a file that came before its looker: the configuration beside it is there within a few round trips.
_KEPT_BYTES = 4 << 20

# Inode, size and time of change: the same stamp means the same bytes, as far as a file system tells.
Stamp = tuple[int, int, int]


class Look(Protocol):
    """Somebody who sees a file's bytes pass by, in order. What was seen counts once they are verified."""

    def take(self, data: memoryview) -> None:
        """The next bytes, to be looked at now: their memory is used again. Never raises."""

    def restart(self) -> None:
        """What came was not the file: forget it."""


class Nobody:
    """Nobody looks."""

    def take(self, data: memoryview) -> None:
        """See Look."""

    def restart(self) -> None:
        """See Look."""


class Expected:
    """A Look in the place of one that is yet to come: the first bytes are kept for it.

    Where more than these came before it, it sees nothing, and has to look at the file itself.
    """

    def __init__(self) -> None:
        self._look: Look | None = None
        self._turn = Lock()  # bytes come in one thread, the looker in another
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._kept: list[bytes] = []
        self._room = _KEPT_BYTES

    def take(self, data: memoryview) -> None:
        """See Look."""
        with self._turn:
            if self._room < 0:
                return
            if self._look is not None:
                self._look.take(data)
                return
            self._room -= len(data)
            if self._room < 0:
                self._kept.clear()
            else:
                self._kept.append(bytes(data))

    def restart(self) -> None:
        """See Look."""
        with self._turn:
            self._begin_anew()
            if self._look is not None:
                self._look.restart()

    def come(self, look: Look) -> None:
        """Here it is."""
        with self._turn:
            for piece in self._kept:
                look.take(memoryview(piece))
            self._kept.clear()
            self._look = look


class Incoming:
    """A sink for the bytes of `file`, which it writes to `path`, over a file of the same size if one is there.

    stamp: of the file once it was committed.
    """

    def __init__(self, path: Path, file: ManifestFile, look: Look) -> None:
        self.size = file.size
        self.position = 0
        self.stamp: Stamp | None = None
        self._path = path
        self._name = file.name
        self._digest = file.digest
        self._look: Look = look
        self._hasher = Hasher()
        self._out = path.open("r+b" if path.exists() else "xb", buffering=0)

    def append(self, offset: int, data: bytes | memoryview) -> None:
        """Take the bytes at the present position. Raises DigestMismatch where they cannot belong there, OSError."""
        if offset != self.position or offset + len(data) > self.size:
            raise DigestMismatch(
                f"{self._name}: expected bytes at {self.position} of {self.size}, got {len(data)} bytes at {offset}"
            )
        view = memoryview(data)
        self._look.take(view)  # first: what it sees is worked on while the rest is done here
        self._hasher.update(view)
        self._write(view)
        self.position += len(view)

    def restart(self) -> None:
        """Forget what came."""
        self._out.seek(0)
        self._out.truncate()
        self._hasher = Hasher()
        self._look.restart()
        self.position = 0

    def commit(self) -> None:
        """Verify. Raises DigestMismatch."""
        if self._hasher.digest != self._digest:
            raise DigestMismatch(f"expected {self.size} bytes of {self._digest} for {self._name}, got others")
        self._out.close()
        self.stamp = stamp_of(self._path)

    def close(self) -> None:
        """Let go of the file, and of who looks.

        Whoever brought the bytes may remember this sink until Python looks for cycles (tenacity's loop is one),
        and a looker holds all tensors of an adapter.
        """
        self._out.close()
        self._look = Nobody()

    def _write(self, view: memoryview) -> None:
        while len(view):
            view = view[self._out.write(view) :]


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file, None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def verify(path: Path, file: ManifestFile, look: Look) -> Stamp | None:
    """The stamp of a file whose bytes are what they should be, else None. Raises OSError."""
    stamp = stamp_of(path)
    if stamp is None or stamp[1] != file.size:
        return None
    hasher = Hasher()
    for piece in pieces(path):
        hasher.update(piece)
        look.take(piece)
    if hasher.digest == file.digest:
        return stamp
    look.restart()
    return None


def pieces(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, each piece good until the next one. Raises OSError."""
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            yield buffer[:count]


def copy(path: Path, into: Sink) -> None:
    """Send a file to a sink, and commit it. Raises OSError, DigestMismatch."""
    for piece in pieces(path):
        into.append(into.position, piece)
    into.commit()
