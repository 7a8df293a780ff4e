"""Signatures in the store, and the namespace's policy about them.

Owns the rows and the rule, judged in the transaction that publishes, so that no change of policy can
slip in between: what comes is about this version, what claims a trusted key was made by it, and where
keys are trusted one of them signed. Signatures by other keys are kept and do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from adapter_registry.domain.records import VersionRecord
from adapter_registry.store.audit import note
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import NamespaceRow, SignatureRow
from adapter_registry.store.models import AdapterRow, VersionRow
from adapter_registry.store.reading import locate, name_of, version_record
from lorry.errors import Exhausted, InvalidSignature, SignatureRequired
from lorry.format.reference import Reference
from lorry.signing import PublicKey, public_key, signers, verify

# A version is answered with its signatures in one message of at most 8 MiB, its manifest beside them.
_MAX_SIGNERS = 16
_MAX_BYTES = 4 << 20


class Signatures:
    """The part of the catalogue that adds signatures; see Catalog."""

    _database: Database

    def add_signatures(self, reference: Reference, signatures: Mapping[str, bytes]) -> VersionRecord:
        """See Catalog."""
        with self._database.write() as session:
            adapter, version = locate(session, reference)
            admit(session, adapter, version, signatures)
            return version_record(session, version)


def admit(session: Session, adapter: AdapterRow, version: VersionRow, new: Mapping[str, bytes]) -> None:
    """Keep these envelopes by key id beside those that are there, where the namespace's policy is met then.

    One that is there by the same key gives way, where the namespace lists the key: of another nobody here knows who
    holds it. Raises InvalidSignature, SignatureRequired, and Exhausted beyond 16 keys or 4 MiB a version.
    """
    stored, trusted = _stored(session, version), _trusted(session, adapter.namespace)
    known = {key.id for key in trusted}
    foreign = [key for key in new if stored.get(key, new[key]) != new[key] and key not in known]
    if foreign:
        raise InvalidSignature(
            f"{name_of(adapter)}@{version.number} has another signature by {foreign[0]}, a key that namespace "
            f"{adapter.namespace!r} does not list: whether it may be replaced cannot be told"
        )
    together = {**stored, **new}
    if len(together) > _MAX_SIGNERS or sum(map(len, together.values())) > _MAX_BYTES:
        raise Exhausted(
            f"expected at most {_MAX_SIGNERS} signers and {_MAX_BYTES} bytes of signatures a version, "
            f"{name_of(adapter)}@{version.number} has {len(stored)} and {len(new)} more came"
        )
    for envelope in set(new.values()):
        verify(envelope, version.digest, name_of(adapter), trusted)
    if trusted and not signers(together.values(), version.digest, name_of(adapter), trusted):
        raise SignatureRequired(
            f"namespace {adapter.namespace!r} takes only what one of its keys signed: expected a signature of "
            f"{name_of(adapter)} by {', '.join(key.id for key in trusted)}, got {', '.join(together) or 'none'}"
        )
    _write(session, adapter, version, {key: envelope for key, envelope in new.items() if stored.get(key) != envelope})


def _stored(session: Session, version: VersionRow) -> dict[str, bytes]:
    rows = session.scalars(select(SignatureRow).where(SignatureRow.version == version.id))
    return {row.key_id: row.envelope for row in rows}


def _trusted(session: Session, namespace: str) -> list[PublicKey]:
    row = session.get(NamespaceRow, namespace)
    return [public_key(pem.encode()) for pem in row.trusted_keys] if row else []


def _write(session: Session, adapter: AdapterRow, version: VersionRow, new: Mapping[str, bytes]) -> None:
    if not new:
        return
    now = datetime.now(UTC)
    session.execute(delete(SignatureRow).where(SignatureRow.version == version.id, SignatureRow.key_id.in_(new)))
    session.add_all(SignatureRow(version=version.id, key_id=key, envelope=e, added=now) for key, e in new.items())
    session.flush()
    detail = f"signed by {', '.join(new)}"
    note(session, namespace=adapter.namespace, name=adapter.name, digest=version.digest, detail=detail)
