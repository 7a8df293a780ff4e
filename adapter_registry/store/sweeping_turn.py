"""Turns: work of which one piece runs at a time, among all processes on one database.

Owns the lock behind a turn, which the kernel or PostgreSQL lets go of for a process that died: a
locked file beside an SQLite database, an advisory lock of a connection of its own on PostgreSQL. Does
not know the work.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from sqlalchemy import Engine

from adapter_registry.domain.garbage import Turn
from adapter_registry.store.database import typed_errors
from adapter_registry.store.notify import own_connection
from lorry.errors import AlreadyRunning, StorageUnavailable

# PostgreSQL's first key of all our turns (`turn` in ASCII); the second is the work's hash.
_TURNS = int.from_bytes(b"turn", "big")
_HOLDER = """
    SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %(turns)s AND l.objsubid = 2
        AND l.objid::bigint = hashtext(%(work)s)::bigint & 4294967295
"""
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
    """An advisory lock of a connection of its own, which is named so that operators see who has it."""

    def __init__(self, engine: Engine, work: str) -> None:
        with typed_errors():
            self._connection = own_connection(engine)
        try:
            with _typed():
                self._lock(work)
        except BaseException:
            self._connection.close()
            raise

    def _lock(self, work: str) -> None:
        execute, key = self._connection.execute, {"turns": _TURNS, "work": work}
        if execute("SELECT pg_try_advisory_lock(%(turns)s, hashtext(%(work)s))", key).fetchone() != (True,):
            holder = execute(_HOLDER, key).fetchone()
            raise _running(work, holder[0].rpartition(" ")[2] if holder else "")
        execute("SELECT set_config('application_name', %s, false)", (f"lorry {work} since {_stamp()}",))

    def confirm(self) -> None:
        """See Turn."""
        with _typed():
            self._connection.execute("SELECT 1")

    def close(self) -> None:
        """Unlock, and close the connection, with which the lock would go too, if only a moment later."""
        with suppress(StorageUnavailable), _typed():
            self._connection.execute("SELECT pg_advisory_unlock_all()")
        self._connection.close()


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise StorageUnavailable(f"expected the database to keep a lock, got {type(error).__name__}") from error


def _running(work: str, since: str) -> AlreadyRunning:
    return AlreadyRunning(f"expected no {work} to run, one does since {since or 'a moment ago'}")


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
