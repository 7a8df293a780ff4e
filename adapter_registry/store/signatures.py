"""Signatures in the store, and the namespace's policy about them.

Owns the rows and the rule, judged in the transaction that publishes, so that no change of policy can
slip in between: what comes is about this version, what claims a trusted key was made by it, and where
keys are trusted one of them signed. Signatures by other keys are kept and do not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from adapter_registry.domain.records import VersionRecord
from adapter_registry.store.audit import note
from adapter_registry.store.database import Database
from adapter_registry.store.keeping import EnvelopeRow, NamespaceRow
from adapter_registry.store.models import AdapterRow, VersionRow
from adapter_registry.store.reading import locate, name_of, version_record
from lorry.errors import Exhausted, SignatureRequired
from lorry.format.digest import digest_of
from lorry.format.reference import AdapterName, Reference
from lorry.signing import PublicKey, public_key, read, signers, verify

# A version is answered with its signatures in one message of at most 8 MiB, its manifest beside them.
_MAX_ENVELOPES = 16
_MAX_BYTES = 4 << 20
# Envelopes that came together are told in their order.
_NEXT = timedelta(microseconds=1)


class Signatures:
    """The part of the catalogue that adds signatures; see Catalog."""

    _database: Database

    def add_signatures(self, reference: Reference, signatures: Sequence[bytes]) -> VersionRecord:
        """See Catalog."""
        with self._database.write() as session:
            adapter, version = locate(session, reference)
            admit(session, adapter, version, signatures)
            return version_record(session, version)


def admit(session: Session, adapter: AdapterRow, version: VersionRow, new: Sequence[bytes]) -> None:
    """Keep these envelopes beside those that are there, where the namespace's policy is met then.

    None gives way to one of which nobody here can tell whether its key made it: anybody may claim any key. Raises
    InvalidSignature, SignatureRequired, and Exhausted beyond 16 envelopes or 4 MiB a version.
    """
    stored, trusted, about = (
        _stored(session, version),
        _trusted(session, adapter.namespace),
        _About.of(adapter, version),
    )
    proven = {envelope: verify(envelope, *about, trusted) for envelope in new if envelope not in stored}
    left = _beside(proven, stored, about, trusted)
    together = (*left, *proven)
    if trusted and not signers(together, *about, trusted):
        claimed = dict.fromkeys(key for envelope in together for key in read(envelope, *about).signatures)
        raise SignatureRequired(
            f"namespace {adapter.namespace!r} takes only what one of its keys signed: expected a signature of "
            f"{about.adapter} by {', '.join(key.id for key in trusted)}, got {', '.join(claimed) or 'none'}"
        )
    _write(session, adapter, version, set(stored) - set(left), list(proven))


class _About(NamedTuple):
    """What signatures of a version are about."""

    digest: str
    adapter: AdapterName

    @classmethod
    def of(cls, adapter: AdapterRow, version: VersionRow) -> _About:
        return cls(version.digest, name_of(adapter))


def _beside(
    new: Mapping[bytes, tuple[str, ...]], stored: Sequence[bytes], about: _About, trusted: Sequence[PublicKey]
) -> list[bytes]:
    """The stored envelopes that stay where new ones come, by which of the trusted keys signed each.

    Those go whose keys are proven to have signed anew, or are claimed and proven to be another's; and where there is no
    room, for new ones that are all proven, the oldest that nobody here can vouch for. Raises Exhausted.
    """
    if not new:
        return list(stored)
    keys = {key for signed in new.values() for key in signed}
    vouched = {envelope for envelope in stored if signers([envelope], *about, trusted)}

    def settled(envelope: bytes) -> bool:
        claimed = read(envelope, *about).signatures.keys()
        return claimed <= keys or (envelope not in vouched and not claimed.isdisjoint(keys))

    left = [envelope for envelope in stored if not settled(envelope)]
    idle = [envelope for envelope in left if envelope not in vouched] if all(new.values()) else []
    while len(left) + len(new) > _MAX_ENVELOPES or sum(map(len, (*left, *new))) > _MAX_BYTES:
        if not idle:
            raise Exhausted(
                f"expected at most {_MAX_ENVELOPES} envelopes and {_MAX_BYTES} bytes of signatures a version, "
                f"{about.adapter}@{about.digest} has {len(stored)} and {len(new)} more came"
            )
        left.remove(idle.pop(0))
    return left


def _stored(session: Session, version: VersionRow) -> list[bytes]:
    """In the order in which they came."""
    rows = session.scalars(select(EnvelopeRow).where(EnvelopeRow.version == version.id))
    return [row.envelope for row in sorted(rows, key=lambda row: (row.added, row.digest))]


def _trusted(session: Session, namespace: str) -> list[PublicKey]:
    row = session.get(NamespaceRow, namespace)
    return [public_key(pem.encode()) for pem in row.trusted_keys] if row else []


def _write(
    session: Session, adapter: AdapterRow, version: VersionRow, gone: Collection[bytes], new: Sequence[bytes]
) -> None:
    if not new:
        return
    now, ours = datetime.now(UTC), EnvelopeRow.version == version.id
    session.execute(delete(EnvelopeRow).where(ours, EnvelopeRow.digest.in_([digest_of(each) for each in gone])))
    session.add_all(
        EnvelopeRow(version=version.id, digest=digest_of(each), envelope=each, added=now + number * _NEXT)
        for number, each in enumerate(new)
    )
    session.flush()
    about = _About.of(adapter, version)
    keys = dict.fromkeys(key for each in new for key in read(each, *about).signatures)
    note(
        session,
        namespace=adapter.namespace,
        name=adapter.name,
        digest=version.digest,
        detail=f"signed by {', '.join(keys)}",
    )
