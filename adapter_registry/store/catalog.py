"""The catalogue on SQL: domain.catalog.Catalog, on SQLite and on PostgreSQL.

Owns nothing but the whole: its parts are the modules beside this one, each of which keeps one kind
of thing. Does not make tables; `store.migrate` does.
"""

from __future__ import annotations

from sqlalchemy import Engine

from adapter_registry.store.adapters import Adapters
from adapter_registry.store.aliases import Aliases
from adapter_registry.store.audit import Audit
from adapter_registry.store.bases import Bases
from adapter_registry.store.claims import Claims
from adapter_registry.store.database import Database, create_engine_for
from adapter_registry.store.deletions import Deletions
from adapter_registry.store.events import Events
from adapter_registry.store.integrity import Integrity
from adapter_registry.store.judging import Judge
from adapter_registry.store.leases import Leases
from adapter_registry.store.lineage import Lineages
from adapter_registry.store.namespaces import NamespaceBook
from adapter_registry.store.principals import Principals
from adapter_registry.store.reservations import Reservations
from adapter_registry.store.retention import Retention
from adapter_registry.store.signatures import Signatures
from adapter_registry.store.sweeping import Sweeping
from adapter_registry.store.verdicts import Verdicts
from adapter_registry.store.versions import Versions


class SqlCatalog(
    Bases,
    Versions,
    Signatures,
    Deletions,
    Adapters,
    Aliases,
    Leases,
    Lineages,
    Retention,
    Events,
    Claims,
    Reservations,
    NamespaceBook,
    Sweeping,
    Integrity,
    Verdicts,
    Principals,
    Audit,
):
    """A catalogue on an engine of `create_engine_for`; every method is described at Catalog."""

    def __init__(self, engine: Engine) -> None:
        self._database = Database(engine)
        self._judge = Judge(self._database)

    def probe(self) -> None:
        """See Catalog."""
        self._database.require_file()
        self.last_event()

    def close(self) -> None:
        """Close the connections. Calls that still run finish."""
        self._database.close()


def open_catalog(url: str, pool_size: int = 8) -> SqlCatalog:
    """A catalogue on a database that was migrated; nothing is connected yet. Raises InvalidInput."""
    return SqlCatalog(create_engine_for(url, pool_size))
