"""How Alembic runs our migrations: on the connection, and in the transaction, that the caller opened.

Owns the comparison of tables and models. Does not open a database: `adapter_registry.store.migrate`
does, with the settings of the store.
"""

from __future__ import annotations

from alembic import context

import adapter_registry.store.keeping  # noqa: F401 - tells the metadata of its tables
from adapter_registry.store.models import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    # SQLite's tables change by being copied; on PostgreSQL this makes no difference.
    render_as_batch=True,
)
context.run_migrations()
