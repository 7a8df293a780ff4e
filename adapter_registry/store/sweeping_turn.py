"""Turns: work of which one piece runs at a time, among all processes on one database.

Owns the lock behind a turn, which the kernel or PostgreSQL lets go of for a process that died: a
locked file beside an SQLite database, an advisory lock of a connection of its own on PostgreSQL. Does
not know the work.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from adapter_registry.domain.garbage import Turn
from adapter_registry.store.database import typed_errors
from lorry.errors import AlreadyRunning, StorageUnavailable

# PostgreSQL's first key of all our turns (`turn` in ASCII); the second is the work's hash.
_TURNS = int.from_bytes(b"turn", "big")
# Longer than any stamp in a lock file.
_STAMP_BYTES = 64


def take_turn(engine: Engine, work: str) -> Turn:
    """The turn to do the work. Raises AlreadyRunning, StorageUnavailable."""
    if engine.dialect.name == "postgresql":
        return _ConnectionTurn(engine, work)
    return _FileTurn(Path(f"{engine.url.database}.{work}"), work)


class _FileTurn:
    """A locked file. Threads of this process exclude each other too: each opens the file anew."""

    def __init__(self, path: Path, work: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageUnavailable(f"expected to open the lock file {path.name} beside the database") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            since = os.pread(self._fd, _STAMP_BYTES, 0).decode()
            os.close(self._fd)
            raise _running(work, since) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, _stamp().encode(), 0)

    def confirm(self) -> None:
        """A lock of the kernel is held as long as its file is open."""

    def close(self) -> None:
        """Unlock."""
        os.close(self._fd)


class _ConnectionTurn:
    """An advisory lock of a connection that is out of the pool, and named so that operators see it."""

    def __init__(self, engine: Engine, work: str) -> None:
        with typed_errors():
            self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._connection.detach()
        self._key = {"turns": _TURNS, "work": work, "name": f"lorry {work} since {_stamp()}"}
        try:
            with typed_errors():
                self._lock(work)
        except BaseException:
            self.close()
            raise

    def _lock(self, work: str) -> None:
        ask = text("SELECT pg_try_advisory_lock(:turns, hashtext(:work))")
        if not self._connection.scalar(ask, self._key):
            raise _running(work, _holder(self._connection, self._key))
        self._connection.execute(text("SELECT set_config('application_name', :name, false)"), self._key)

    def confirm(self) -> None:
        """See Turn."""
        with typed_errors():
            self._connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Unlock, and close the connection, with which the lock would go too, if only a moment later."""
        with suppress(StorageUnavailable), typed_errors(), self._connection:
            self._connection.execute(text("SELECT pg_advisory_unlock_all()"))


def _holder(connection: Connection, key: dict[str, object]) -> str:
    held = text(
        "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.classid = :turns AND l.objsubid = 2 "
        "AND l.objid::bigint = hashtext(:work)::bigint & 4294967295"
    )
    name: str = connection.scalar(held, key) or ""
    return name.rpartition(" ")[2]


def _running(work: str, since: str) -> AlreadyRunning:
    return AlreadyRunning(f"expected no {work} to run, one does since {since or 'a moment ago'}")


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
