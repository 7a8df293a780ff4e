"""Bringing a database to the tables of this release.

Owns how Alembic is called: no ini file, the scripts lie in the package, so that an installed wheel
can migrate its database itself. A migration is one transaction with the turn to write; two
registries that start at once do not meet in it. Does not know what a migration does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import adapter_registry
from adapter_registry.store.database import create_engine_for, for_writing, typed_errors
from lorry.errors import FailedPrecondition

_SCRIPTS = Path(adapter_registry.__file__).parent / "migrations"


def upgrade(url: str) -> None:
    """Make all tables as this release wants them.

    Raises InvalidInput, StorageUnavailable, FailedPrecondition where a later release made them.
    """
    with migration(url) as config:
        _heads(config.attributes["connection"])
        command.upgrade(config, "head")


def current_is_head(url: str) -> bool:
    """Whether the database has the tables of this release. Raises as `upgrade`."""
    with _engine(url) as engine, engine.begin() as connection:
        return _heads(connection) == set(ScriptDirectory(str(_SCRIPTS)).get_heads())


def _heads(connection: Connection) -> set[str]:
    """What the database was migrated to. Raises FailedPrecondition where this release does not know it."""
    current = set(MigrationContext.configure(connection).get_current_heads())
    known = {script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()}
    if unknown := current - known:
        raise FailedPrecondition(
            f"expected a database of this release ({max(known)}) or of an earlier one, got one of a later release "
            f"({', '.join(sorted(unknown))}): run that release, or restore a backup of before"
        )
    return current


@contextmanager
def migration(url: str) -> Iterator[Config]:
    """A configuration for alembic.command, whose commands share one transaction on the database."""
    with _engine(url) as engine, for_writing(engine).begin() as connection:
        config = Config()
        # The configuration's own syntax gives % a meaning.
        config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
        config.attributes["connection"] = connection
        yield config


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = create_engine_for(url, pool_size=1)
    try:
        with typed_errors():
            yield engine
    finally:
        engine.dispose()
