"""The first tables: bases, adapters, versions, aliases with their history, and the outbox.

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Children before parents: the order in which they can be dropped.
TABLES = (
    "events",
    "alias_moves",
    "aliases",
    "lineage",
    "versions",
    "adapter_labels",
    "adapters",
    "base_names",
    "bases",
)

# SQLite numbers rows by itself only where the type is spelt INTEGER.
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BIG = sa.BigInteger()
TEXT = sa.Text()
TIME = sa.DateTime(timezone=True)


def words(length: int) -> sa.String:
    """Sorted by bytes, whatever the database's locale."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    bases()
    adapters()
    versions()
    aliases()
    events()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)


def bases() -> None:
    op.create_table(
        "bases",
        Column("id", ID, nullable=False),
        Column("base_id", words(71), nullable=False),
        Column("name", words(63), nullable=False),
        Column("architecture_id", words(71), nullable=False),
        Column("model_type", TEXT, nullable=False),
        Column("vocab_size", BIG, nullable=False),
        Column("quantization", TEXT, nullable=False),
        Column("derived_from", words(71), nullable=True),
        Column("modules", sa.JSON(), nullable=False),
        Column("created", TIME, nullable=False),
        PrimaryKeyConstraint("id", name="pk_bases"),
        UniqueConstraint("base_id", name="uq_bases_base_id"),
        UniqueConstraint("name", name="uq_bases_name"),
    )
    op.create_table(
        "base_names",
        Column("base", ID, nullable=False),
        Column("name", words(500), nullable=False),
        ForeignKeyConstraint(["base"], ["bases.id"], name="fk_base_names_base"),
        PrimaryKeyConstraint("base", "name", name="pk_base_names"),
    )
    op.create_index("ix_base_names_name", "base_names", ["name"])


def adapters() -> None:
    op.create_table(
        "adapters",
        Column("id", ID, nullable=False),
        Column("namespace", words(63), nullable=False),
        Column("name", words(63), nullable=False),
        Column("created", TIME, nullable=False),
        Column("revision", BIG, nullable=False),
        Column("last_number", BIG, nullable=False),
        Column("latest_number", BIG, nullable=False),
        Column("version_count", BIG, nullable=False),
        Column("deleted", sa.Boolean(), nullable=False),
        Column("description", TEXT, nullable=False),
        PrimaryKeyConstraint("id", name="pk_adapters"),
        UniqueConstraint("namespace", "name", name="uq_adapters_namespace_name"),
    )
    op.create_table(
        "adapter_labels",
        Column("adapter", ID, nullable=False),
        Column("key", words(63), nullable=False),
        Column("value", words(63), nullable=False),
        ForeignKeyConstraint(["adapter"], ["adapters.id"], name="fk_adapter_labels_adapter"),
        PrimaryKeyConstraint("adapter", "key", name="pk_adapter_labels"),
    )
    op.create_index("ix_adapter_labels_key_value", "adapter_labels", ["key", "value"])


def versions() -> None:
    op.create_table(
        "versions",
        Column("id", ID, nullable=False),
        Column("adapter", ID, nullable=False),
        Column("number", BIG, nullable=False),
        Column("digest", words(71), nullable=False),
        Column("base_id", words(71), nullable=False),
        Column("variant", TEXT, nullable=False),
        Column("rank", BIG, nullable=False),
        Column("size", BIG, nullable=False),
        Column("created", TIME, nullable=False),
        Column("yank_reason", TEXT, nullable=True),
        Column("warnings", sa.JSON(), nullable=False),
        Column("manifest", TEXT, nullable=False),
        ForeignKeyConstraint(["adapter"], ["adapters.id"], name="fk_versions_adapter"),
        PrimaryKeyConstraint("id", name="pk_versions"),
        UniqueConstraint("adapter", "number", name="uq_versions_adapter_number"),
        UniqueConstraint("adapter", "digest", name="uq_versions_adapter_digest"),
    )
    op.create_index("ix_versions_digest", "versions", ["digest"])
    op.create_index("ix_versions_base_id", "versions", ["base_id"])
    op.create_table(
        "lineage",
        Column("child", ID, nullable=False),
        Column("parent", words(71), nullable=False),
        ForeignKeyConstraint(["child"], ["versions.id"], name="fk_lineage_child"),
        PrimaryKeyConstraint("child", "parent", name="pk_lineage"),
    )
    op.create_index("ix_lineage_parent", "lineage", ["parent"])


def aliases() -> None:
    op.create_table(
        "aliases",
        Column("adapter", ID, nullable=False),
        Column("alias", words(63), nullable=False),
        Column("version", ID, nullable=False),
        Column("revision", BIG, nullable=False),
        Column("updated", TIME, nullable=False),
        ForeignKeyConstraint(["adapter"], ["adapters.id"], name="fk_aliases_adapter"),
        ForeignKeyConstraint(["version"], ["versions.id"], name="fk_aliases_version"),
        PrimaryKeyConstraint("adapter", "alias", name="pk_aliases"),
    )
    op.create_index("ix_aliases_version", "aliases", ["version"])
    op.create_table(
        "alias_moves",
        Column("adapter", ID, nullable=False),
        Column("alias", words(63), nullable=False),
        Column("revision", BIG, nullable=False),
        Column("digest", words(71), nullable=True),
        Column("number", BIG, nullable=False),
        Column("updated", TIME, nullable=False),
        ForeignKeyConstraint(["adapter"], ["adapters.id"], name="fk_alias_moves_adapter"),
        PrimaryKeyConstraint("adapter", "alias", "revision", name="pk_alias_moves"),
    )


def events() -> None:
    op.create_table(
        "events",
        Column("sequence", ID, nullable=False),
        Column("kind", TEXT, nullable=False),
        Column("namespace", TEXT, nullable=False),
        Column("name", TEXT, nullable=False),
        Column("digest", TEXT, nullable=False),
        Column("number", BIG, nullable=False),
        Column("text", TEXT, nullable=False),
        Column("committed", TIME, nullable=False),
        PrimaryKeyConstraint("sequence", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_namespace_sequence", "events", ["namespace", "sequence"])
