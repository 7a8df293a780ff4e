"""The catalogue on SQL: domain.catalog.Catalog, on SQLite and on PostgreSQL.

Owns nothing but the whole: its parts are the modules beside this one, each of which keeps one kind
of thing. Does not make tables; `store.migrate` does.
"""

from __future__ import annotations

from sqlalchemy import Engine, text

from adapter_registry.store.adapters import Adapters
from adapter_registry.store.aliases import Aliases
from adapter_registry.store.bases import Bases
from adapter_registry.store.database import Database, create_engine_for
from adapter_registry.store.deletions import Deletions
from adapter_registry.store.events import Events
from adapter_registry.store.versions import Versions


class SqlCatalog(Bases, Versions, Deletions, Adapters, Aliases, Events):
    """A catalogue on an engine of `create_engine_for`; every method is described at Catalog."""

    def __init__(self, engine: Engine) -> None:
        self._database = Database(engine)

    def probe(self) -> None:
        """See Catalog."""
        with self._database.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close the connections. Calls that still run finish."""
        self._database.close()


def open_catalog(url: str, pool_size: int = 8) -> SqlCatalog:
    """A catalogue on a database that was migrated; nothing is connected yet. Raises InvalidInput."""
    return SqlCatalog(create_engine_for(url, pool_size))
