"""The catalogue's tables.

Owns columns, keys and indexes; adapter_registry/migrations creates exactly these, and a test
compares the two on both databases. Does not know the rules of the catalogue: what may be written
when is told in the modules beside this one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcTime(TypeDecorator[datetime]):
    """A moment, timezone-aware in Python and UTC in the database, which on SQLite knows no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To UTC. SQLAlchemy's signature."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Say that it is UTC. SQLAlchemy's signature."""
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


def words(length: int) -> String:
    """Text that is compared and sorted by its bytes, as in Python, whatever the database's locale."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


# SQLite numbers rows by itself only where the type is spelt INTEGER.
BIG = BigInteger().with_variant(Integer(), "sqlite")

Id = Annotated[int, mapped_column(BIG, primary_key=True)]
Big = Annotated[int, mapped_column(BigInteger)]
Name = Annotated[str, mapped_column(words(63))]
# `sha256:` and 64 digits.
Digest = Annotated[str, mapped_column(words(71))]
Words = Annotated[str, mapped_column(Text)]
Moment = Annotated[datetime, mapped_column(UtcTime)]
Json = Annotated[list[Any], mapped_column(JSON)]


class Row(DeclarativeBase):
    """A row of any table."""

    metadata = MetaData(naming_convention=NAMING)


class BaseRow(Row):
    """A base model. `modules` is a list of [name, kind, in_features, out_features], of experts their number behind it.
    `revision` grows with every change of its family, its own or of a base that it descends from, and of `modules`.
    """

    __tablename__ = "bases"

    id: Mapped[Id]
    base_id: Mapped[Digest] = mapped_column(unique=True)
    name: Mapped[Name] = mapped_column(unique=True)
    architecture_id: Mapped[Digest]
    model_type: Mapped[Words]
    vocab_size: Mapped[Big]
    quantization: Mapped[Words]
    derived_from: Mapped[str | None] = mapped_column(words(71))
    modules: Mapped[Json]
    created: Mapped[Moment]
    carry_over: Mapped[Words]
    revision: Mapped[Big]


class KnownAsRow(Row):
    """A further name of a base. Two bases may share one; the one that came first is meant."""

    __tablename__ = "base_names"

    base: Mapped[int] = mapped_column(BIG, ForeignKey("bases.id"), primary_key=True)
    name: Mapped[str] = mapped_column(words(500), primary_key=True)
    __table_args__ = (Index(None, "name"),)


class AdapterRow(Row):
    """An adapter.

    last_number is the highest that was ever given; latest_number that of the newest version that is
    not yanked, 0 where there is none. A deleted adapter keeps its row, so that when its name comes
    back its numbers and revisions go on.
    """

    __tablename__ = "adapters"

    id: Mapped[Id]
    namespace: Mapped[Name]
    name: Mapped[Name]
    created: Mapped[Moment]
    revision: Mapped[Big]
    last_number: Mapped[Big]
    latest_number: Mapped[Big]
    version_count: Mapped[Big]
    deleted: Mapped[bool]
    description: Mapped[Words]
    keep_last: Mapped[Big]
    __table_args__ = (UniqueConstraint("namespace", "name"),)


class LabelRow(Row):
    """A label of an adapter."""

    __tablename__ = "adapter_labels"

    adapter: Mapped[int] = mapped_column(BIG, ForeignKey("adapters.id"), primary_key=True)
    key: Mapped[str] = mapped_column(words(63), primary_key=True)
    value: Mapped[Name]
    __table_args__ = (Index(None, "key", "value"),)


class VersionRow(Row):
    """A version. The manifest is last and the other columns repeat what filters ask, so that
    scanning for facts does not read it.
    """

    __tablename__ = "versions"

    id: Mapped[Id]
    adapter: Mapped[int] = mapped_column(BIG, ForeignKey("adapters.id"))
    number: Mapped[Big]
    digest: Mapped[Digest] = mapped_column(index=True)
    base_id: Mapped[Digest] = mapped_column(index=True)
    variant: Mapped[Words]
    rank: Mapped[Big]
    size: Mapped[Big]
    created: Mapped[Moment]
    yank_reason: Mapped[str | None] = mapped_column(Text)
    warnings: Mapped[Json]
    manifest: Mapped[Words]
    __table_args__ = (UniqueConstraint("adapter", "number"), UniqueConstraint("adapter", "digest"))


class LineageRow(Row):
    """A parent of a version. The parent is a digest: it may be gone, and come back."""

    __tablename__ = "lineage"

    child: Mapped[int] = mapped_column(BIG, ForeignKey("versions.id"), primary_key=True)
    parent: Mapped[Digest] = mapped_column(primary_key=True, index=True)


class AliasRow(Row):
    """An alias as it is now."""

    __tablename__ = "aliases"

    adapter: Mapped[int] = mapped_column(BIG, ForeignKey("adapters.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(words(63), primary_key=True)
    version: Mapped[int] = mapped_column(BIG, ForeignKey("versions.id"), index=True)
    revision: Mapped[Big]
    updated: Mapped[Moment]


class MoveRow(Row):
    """One move of an alias; no digest and number 0 record its deletion. Rows are never removed."""

    __tablename__ = "alias_moves"

    adapter: Mapped[int] = mapped_column(BIG, ForeignKey("adapters.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(words(63), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    digest: Mapped[str | None] = mapped_column(words(71))
    number: Mapped[Big]
    updated: Mapped[Moment]


class EventRow(Row):
    """One line of the outbox, written in the transaction that it tells about."""

    __tablename__ = "events"

    sequence: Mapped[Id]
    kind: Mapped[Words]
    namespace: Mapped[Words]
    name: Mapped[Words]
    digest: Mapped[Words]
    number: Mapped[Big]
    text: Mapped[Words]
    committed: Mapped[Moment]
    # Without AUTOINCREMENT SQLite would give the sequence of a removed last row again.
    __table_args__ = (Index(None, "namespace", "sequence"), {"sqlite_autoincrement": True})
