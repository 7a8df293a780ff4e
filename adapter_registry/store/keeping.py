"""The tables beside the catalogue's own: blobs and whose they are, verdicts, leases, access, audit.

Owns columns, keys and indexes, as `store.models` does for the catalogue; the migrations create
exactly these. Does not know the rules: what may be written when is told in the modules beside.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from adapter_registry.store.models import BIG, Big, Id, Json, Moment, Name, Row, UtcTime, Words, words

Key = Annotated[str, mapped_column(words(71), primary_key=True)]
Of = Annotated[int, mapped_column(BIG, ForeignKey("versions.id"), primary_key=True)]
Bytes = Annotated[bytes, mapped_column(LargeBinary)]
Then = Annotated[datetime | None, mapped_column(UtcTime)]


class BlobRow(Row):
    """A blob whose bytes are durable in the store: the row comes after them and goes after them.

    blocks: BLAKE3 of each MiB, side by side; None where they are not known yet. touched: when it was
    last sent, asked for, named or let go of; garbage collection counts its grace from there.
    condemned: its bytes are being deleted; nobody may name it or send it until the row is gone.
    quarantined: its bytes were found damaged and were put aside; sending it again heals it.
    """

    __tablename__ = "blobs"

    digest: Mapped[Key]
    size: Mapped[Big]
    blocks: Mapped[bytes | None] = mapped_column(LargeBinary)
    stored: Mapped[Moment]
    touched: Mapped[Moment]
    condemned: Mapped[bool]
    quarantined: Mapped[Then]


class ClaimRow(Row):
    """A namespace that may publish a blob, and whose quota it counts for: it sent the bytes, or it
    published a version of them.
    """

    __tablename__ = "blob_claims"

    digest: Mapped[str] = mapped_column(words(71), ForeignKey("blobs.digest"), primary_key=True)
    namespace: Mapped[str] = mapped_column(words(63), primary_key=True, index=True)
    created: Mapped[Moment]


class UploadRow(Row):
    """Bytes of an upload that is not finished, of a namespace with a limit: those that were announced while
    it is open, those that the store has kept once it broke off. place: tells uploads of one digest apart.
    """

    __tablename__ = "uploads"

    namespace: Mapped[str] = mapped_column(words(63), primary_key=True)
    digest: Mapped[Key]
    place: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    size: Mapped[Big]
    touched: Mapped[datetime] = mapped_column(UtcTime, index=True)


class VersionBlobRow(Row):
    """A blob that a version names."""

    __tablename__ = "version_blobs"

    version: Mapped[Of]
    digest: Mapped[str] = mapped_column(words(71), primary_key=True, index=True)


class VersionModuleRow(Row):
    """The last part of a target module's path (`q_proj`), once a version: what the filter `module` asks."""

    __tablename__ = "version_modules"

    version: Mapped[Of]
    module: Mapped[str] = mapped_column(words(500), primary_key=True, index=True)


class VersionFactsRow(Row):
    """What a version is, as verdicts need it: compressed JSON. Absent for versions of releases that
    did not store it, until it was read from their bytes.
    """

    __tablename__ = "version_facts"

    version: Mapped[Of]
    facts: Mapped[Bytes]


class VerdictRow(Row):
    """The verdict on a version against a base, as the base was at `revision`. Absent, or of an older
    revision, where it was not computed yet. findings: compressed JSON, empty where there are none.
    """

    __tablename__ = "verdicts"

    version: Mapped[Of]
    base: Mapped[int] = mapped_column(BIG, ForeignKey("bases.id"), primary_key=True)
    compatible: Mapped[bool]
    findings: Mapped[Bytes]
    revision: Mapped[Big]
    __table_args__ = (Index(None, "base", "compatible"),)


class EnvelopeRow(Row):
    """Signatures over a version's manifest, in their envelope. digest: of the envelope."""

    __tablename__ = "envelopes"

    version: Mapped[Of]
    digest: Mapped[Key]
    envelope: Mapped[Bytes]
    added: Mapped[Moment]


class LeaseRow(Row):
    """A holder that uses a version until the lease expires. holder: up to 200 characters of its own,
    behind the name of its principal and a slash where there is access control.
    """

    __tablename__ = "leases"

    holder: Mapped[str] = mapped_column(words(264), primary_key=True)
    version: Mapped[int] = mapped_column(BIG, ForeignKey("versions.id"), primary_key=True, index=True)
    expires: Mapped[Moment] = mapped_column(UtcTime, index=True)


class NamespaceRow(Row):
    """A namespace's limits and policy, 0 and none by default, and what it holds: bytes of its claims,
    versions of its adapters.
    """

    __tablename__ = "namespaces"

    name: Mapped[str] = mapped_column(words(63), primary_key=True)
    max_bytes: Mapped[Big]
    max_versions: Mapped[Big]
    trusted_keys: Mapped[Json]
    revision: Mapped[Big]
    used_bytes: Mapped[Big]
    used_versions: Mapped[Big]


class PrincipalRow(Row):
    """Somebody who may do something. scopes: [namespace or *, permission] pairs. secret_hash: sha256
    of a token's secret, in hex; certificate: the common name that stands for it. One of both is set,
    and none once it was revoked.
    """

    __tablename__ = "principals"

    id: Mapped[Id]
    name: Mapped[Name] = mapped_column(unique=True)
    secret_hash: Mapped[str | None] = mapped_column(words(64), unique=True)
    certificate: Mapped[str | None] = mapped_column(words(200), unique=True)
    scopes: Mapped[Json]
    delegate: Mapped[bool]
    created: Mapped[Moment]
    expires: Mapped[Then]
    revoked: Mapped[Then]
    last_seen: Mapped[Then]


class AuditRow(Row):
    """One thing that was done, written in the transaction that did it."""

    __tablename__ = "audit"

    id: Mapped[Id]
    time: Mapped[Moment]
    principal: Mapped[Words]
    via: Mapped[Words]
    action: Mapped[Words]
    namespace: Mapped[Words]
    name: Mapped[Words]
    digest: Mapped[Words]
    detail: Mapped[Words]
    request_id: Mapped[Words]
    __table_args__ = (
        Index(None, "namespace", "id"),
        Index(None, "digest", "id"),
        Index(None, "principal", "id"),
        {"sqlite_autoincrement": True},
    )
