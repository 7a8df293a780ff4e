"""Room that unfinished uploads take in a namespace's quota; signatures by envelope in place of by key.

Uploads that were open or broken off before are not counted: they are swept within a day. Of envelopes under
one key id there may be several now, since anybody can claim a key.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, ForeignKeyConstraint, PrimaryKeyConstraint

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BIG = sa.BigInteger()
TIME = sa.DateTime(timezone=True)


def words(length: int) -> sa.String:
    """Sorted by bytes, whatever the database's locale."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "uploads",
        Column("namespace", words(63), nullable=False),
        Column("digest", words(71), nullable=False),
        Column("place", BIG, nullable=False),
        Column("size", BIG, nullable=False),
        Column("touched", TIME, nullable=False),
        PrimaryKeyConstraint("namespace", "digest", "place", name="pk_uploads"),
    )
    op.create_index("ix_uploads_touched", "uploads", ["touched"])
    replace("envelopes", Column("digest", words(71), nullable=False), "signatures", by_envelope)


def downgrade() -> None:
    op.drop_table("uploads")
    replace("signatures", Column("key_id", words(64), nullable=False), "envelopes", by_key)


def replace(table: str, key: Column, old: str, keys: Callable[[bytes], Iterator[str]]) -> None:
    """Make a table of envelopes by another key out of the old one."""
    new = op.create_table(
        table,
        Column("version", ID, nullable=False),
        key,
        Column("envelope", sa.LargeBinary(), nullable=False),
        Column("added", TIME, nullable=False),
        ForeignKeyConstraint(["version"], ["versions.id"], name=f"fk_{table}_version"),
        PrimaryKeyConstraint("version", key.name, name=f"pk_{table}"),
    )
    moved(sa.table(old, Column("version"), Column("envelope"), Column("added", TIME)), new, key.name, keys)
    op.drop_table(old)


def moved(old: sa.TableClause, new: sa.Table, key: str, keys: Callable[[bytes], Iterator[str]]) -> None:
    """Version by version: the oldest envelope of a key stays."""
    connection = op.get_bind()
    for version in connection.scalars(sa.select(old.c.version).distinct().order_by(old.c.version)).all():
        rows: dict[str, dict[str, object]] = {}
        for envelope, added in connection.execute(
            sa.select(old.c.envelope, old.c.added).where(old.c.version == version).order_by(old.c.added)
        ):
            for name in keys(envelope):
                rows.setdefault(name, {"version": version, key: name, "envelope": envelope, "added": added})
        connection.execute(sa.insert(new), list(rows.values()))


def by_envelope(envelope: bytes) -> Iterator[str]:
    yield f"sha256:{hashlib.sha256(envelope).hexdigest()}"


def by_key(envelope: bytes) -> Iterator[str]:
    for signature in json.loads(envelope)["signatures"]:
        yield signature["keyid"]
