"""The way to the database: engines, transactions, and what its failures are called.

Owns the settings of SQLite and PostgreSQL, the rule that one writer works at a time, and the
translation of driver errors into the tree of lorry.errors. Does not know tables or the catalogue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session, sessionmaker

from lorry.errors import InvalidInput, StorageUnavailable

# How long anything waits for its turn to write, or for a free connection, before the caller is told
# to come back: below the deadlines that clients set for catalogue calls (30 s), far above a
# transaction (milliseconds).
_PATIENCE_S = 10
# PostgreSQL's name for the turn to write: `lorry` in ASCII.
_TURN = int.from_bytes(b"lorry", "big")
_SQLITE = (
    f"PRAGMA busy_timeout={_PATIENCE_S * 1000}",  # first, since the next may have to wait
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # in WAL mode NORMAL may lose acknowledged commits with the power
    "PRAGMA foreign_keys=ON",
)
_POSTGRES = {
    "lock_timeout": f"{_PATIENCE_S}s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",  # a writer that froze must not keep the turn
    "timezone": "UTC",
    # Whatever the database's default is: a writer has to see what the one before it committed, so its snapshot must
    # not be older than its turn.
    "default_transaction_isolation": "read\\ committed",
}
_WRITES = "lorry_writes"
# In the info of a session whose transaction told something that others wait for.
ANNOUNCED = "announced"


def create_engine_for(url: str, pool_size: int = 8) -> Engine:
    """Engine for a `sqlite:///file` or `postgresql://...` URL with at most `pool_size` connections.

    Nothing is connected yet. Raises InvalidInput.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise InvalidInput("database URL: expected sqlite:///FILE or postgresql://..., got no URL") from error
    settings: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": _PATIENCE_S}
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, settings)
    if parsed.get_backend_name() in {"postgresql", "postgres"}:
        return _postgres(parsed, settings)
    raise InvalidInput(f"database URL: expected sqlite:///FILE or postgresql://..., got {parsed.drivername}://...")


def _sqlite(url: URL, settings: dict[str, Any]) -> Engine:
    if url.database in {None, "", ":memory:"}:
        raise InvalidInput(
            "database URL: expected a file behind sqlite:///, got none; each connection would see its own"
        )
    engine = create_engine(url, **settings)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own BEGIN comes late and never IMMEDIATE; we say it ourselves.
    connection.isolation_level = None
    for pragma in _SQLITE:
        connection.execute(pragma)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes then cannot wait for a lock (SQLITE_BUSY at once,
    # whatever the timeout), so a writer takes the lock before it reads.
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgres(url: URL, settings: dict[str, Any]) -> Engine:
    connect = {"connect_timeout": _PATIENCE_S, "options": " ".join(f"-c {k}={v}" for k, v in _POSTGRES.items())}
    driver = url.set(drivername="postgresql+psycopg")
    engine = create_engine(driver, **settings, pool_pre_ping=True, connect_args=connect)
    event.listen(engine, "begin", _begin_postgres)
    return engine


def _begin_postgres(connection: Connection) -> None:
    # Held to the end of the transaction: sequences of events are given in the order of commits, so
    # a reader that polls for higher ones misses none.
    if connection.get_execution_options().get(_WRITES):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TURN})")


def for_writing(engine: Engine) -> Engine:
    """The same engine and pool; its transactions take the turn to write when they begin."""
    return engine.execution_options(**{_WRITES: True})


class Database:
    """Transactions on one engine, from any thread.

    A read sees one state of the database from beginning to end. Writes happen one after the other,
    here and among all processes on the same database. listeners: called after each commit of this
    process that announced something.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()
        self.listeners: list[Callable[[], None]] = []
        reading = engine
        if engine.dialect.name == "postgresql":
            reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._reads = sessionmaker(reading, expire_on_commit=False)
        self._writes = sessionmaker(for_writing(engine), expire_on_commit=False)

    @property
    def engine(self) -> Engine:
        """The way to the database, for what is no transaction."""
        return self._engine

    def require_file(self) -> None:
        """Raise StorageUnavailable where the file of an SQLite database is gone: what is still open of it
        could be written, and would be lost.
        """
        if self._engine.dialect.name == "sqlite" and not Path(self._engine.url.database or "").exists():
            raise StorageUnavailable("expected the catalogue's database file where it was opened, it is gone")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads. Raises StorageUnavailable."""
        with typed_errors(), self._reads.begin() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write; committed at the end. Raises StorageUnavailable."""
        # Waiting for the turn here rather than in the database leaves the pool to readers.
        if not self._turn.acquire(timeout=_PATIENCE_S):
            raise StorageUnavailable(f"waited {_PATIENCE_S} s for other writers of the catalogue")
        try:
            with typed_errors(), self._writes.begin() as session:
                yield session
            if session.info.get(ANNOUNCED):
                for wake in tuple(self.listeners):
                    wake()
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._engine.dispose()


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turn the driver's errors into ours.

    Raises StorageUnavailable where the database does not answer as it should, InvalidInput for text
    that it cannot hold. The driver's words, which name hosts and tables, stay in the cause.
    """
    try:
        yield
    except exc.DataError as error:
        raise InvalidInput("expected text without NUL and numbers of at most 64 bits, got others") from error
    except (exc.IntegrityError, exc.ProgrammingError, exc.NotSupportedError):
        raise  # defects of ours, not the database's
    except (exc.DBAPIError, exc.TimeoutError) as error:
        kind = type(error.orig if isinstance(error, exc.DBAPIError) else error).__name__
        raise StorageUnavailable(f"expected an answer of the catalogue's database, got {kind}") from error
