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
from sqlalchemy import Engine

import adapter_registry
from adapter_registry.store.database import create_engine_for, for_writing, typed_errors

_SCRIPTS = Path(adapter_registry.__file__).parent / "migrations"


def upgrade(url: str) -> None:
    """Make all tables as this release wants them. Raises InvalidInput, StorageUnavailable."""
    with migration(url) as config:
        command.upgrade(config, "head")


def current_is_head(url: str) -> bool:
    """Whether the database has the tables of this release. Raises InvalidInput, StorageUnavailable."""
    with _engine(url) as engine, engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_heads()
    return set(current) == set(ScriptDirectory(str(_SCRIPTS)).get_heads())


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
