"""Who is woken when events were written, in this process and in all others on the same database.

Owns the announcement in the writing transaction and the ear that waits for it: NOTIFY and LISTEN on
PostgreSQL, a call behind the commit on SQLite, which has nothing for other processes. A wake-up says
only that it is worth looking. Does not know events.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from selectors import EVENT_READ, DefaultSelector

import psycopg
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from adapter_registry.domain.catalog import Listening
from adapter_registry.store.database import ANNOUNCED, Database, typed_errors
from lorry.errors import StorageUnavailable

_log = logging.getLogger(__name__)

_CHANNEL = "lorry_events"
_NOTIFY = text(f"NOTIFY {_CHANNEL}")
# Before the next try to listen, where the server is away; readers poll meanwhile.
_RETRY_S = 1.0


def announce(session: Session) -> None:
    """Wake everybody who listens, once the session's transaction is committed."""
    if not session.info.get(ANNOUNCED) and session.get_bind().dialect.name == "postgresql":
        session.execute(_NOTIFY)
    session.info[ANNOUNCED] = True


def listen(database: Database, wake: Callable[[], None]) -> Listening:
    """Call `wake`, from whatever thread, after commits that announced something, until it is closed."""
    if database.engine.dialect.name == "postgresql":
        return _ServerListening(database.engine, wake)
    return _LocalListening(database, wake)


class _LocalListening:
    """Hears the commits of this process alone."""

    live = False

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake
        database.listeners.append(wake)

    def close(self) -> None:
        """Listen no more."""
        self._database.listeners.remove(self._wake)


class _ServerListening:
    """Hears the commits of all processes, on a connection and in a thread of its own; connects again when cut."""

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self.live = False
        self._engine = engine
        self._wake = wake
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="lorry-listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._stop.close()
        self._thread.join()
        self._stopped.close()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            try:
                with typed_errors(), closing(own_connection(self._engine)) as connection:
                    stopping = self._hear(connection)
            except (StorageUnavailable, psycopg.Error) as error:
                _log.warning("not listening for events, polling instead: %s", type(error.__cause__ or error).__name__)
            if not stopping:
                self.live = False
                self._wake()  # to find out that it has to poll
                stopping = self._waited(_RETRY_S)

    def _hear(self, connection: psycopg.Connection) -> bool:
        connection.execute(f"LISTEN {_CHANNEL}")
        self.live = True
        self._wake()  # for what was told while nobody listened
        while not self._waited(None, connection):
            for _ in connection.notifies(timeout=0):
                self._wake()
        return True

    def _waited(self, seconds: float | None, connection: psycopg.Connection | None = None) -> bool:
        """Wait until the connection has something to say; True where it is time to stop."""
        with DefaultSelector() as selector:
            stop = selector.register(self._stopped, EVENT_READ)
            if connection is not None:
                selector.register(connection, EVENT_READ)
            return stop in [key for key, _ in selector.select(seconds)]


def own_connection(engine: Engine) -> psycopg.Connection:
    """A connection with the engine's settings, out of its pool, each statement a transaction."""
    borrowed = engine.raw_connection()
    connection = borrowed.driver_connection
    borrowed.detach()
    if not isinstance(connection, psycopg.Connection):
        raise TypeError(f"expected psycopg's connection, got {type(connection).__name__}")
    connection.autocommit = True
    return connection
