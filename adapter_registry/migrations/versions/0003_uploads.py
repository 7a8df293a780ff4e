"""Room that unfinished uploads take in a namespace's quota.

Uploads that were open or broken off before are not counted: they are swept within a day.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def words(length: int) -> sa.String:
    """Sorted by bytes, whatever the database's locale."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("namespace", words(63), nullable=False),
        sa.Column("digest", words(71), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("touched", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "digest", "place", name="pk_uploads"),
    )
    op.create_index("ix_uploads_touched", "uploads", ["touched"])


def downgrade() -> None:
    op.drop_table("uploads")
