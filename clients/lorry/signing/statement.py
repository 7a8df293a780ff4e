"""What a signature says: an in-toto statement that this manifest is a version of this adapter.

Owns the statement's fields and what makes one be about a manifest. A signature holds for the adapter
that it names: whoever may publish cannot pass one adapter's signed bytes off as another's. Does not
know which keys to trust. https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from lorry.errors import InvalidAdapter, InvalidSignature
from lorry.format.digest import digest_of
from lorry.format.manifest import Manifest, canonical_json
from lorry.format.reference import AdapterName
from lorry.format.strict_json import Limits, parse_object
from lorry.signing.envelope import MAX_ENVELOPE, Envelope, parse_envelope, seal
from lorry.signing.keys import PublicKey, SigningKey

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://lorry.dev/attestation/manifest/v1"
# A manifest's own depth below two levels of the statement; its values, and those of the subjects.
_LIMITS = Limits(size=MAX_ENVELOPE, depth=6, values=1 << 15)
_ALGORITHM = "sha256"


def sign(manifest: Manifest, adapter: AdapterName, key: SigningKey) -> bytes:
    """A DSSE envelope that says: this manifest is a version of this adapter. Equal arguments, equal bytes."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [_subject(manifest.digest, adapter)],
        "predicateType": PREDICATE_TYPE,
        "predicate": manifest.fields(),
    }
    return seal(canonical_json(statement).encode(), key)


def read(envelope: bytes, digest: str, adapter: AdapterName) -> Envelope:
    """The envelope, where it is about the manifest of this digest as a version of this adapter.

    Nothing is said yet about who signed it. Raises InvalidSignature.
    """
    opened = parse_envelope(envelope)
    try:
        statement = parse_object(opened.payload, "statement", _LIMITS)
    except InvalidAdapter as error:
        raise InvalidSignature(error.message) from error
    for field, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement.get(field) != expected:
            raise InvalidSignature(f"statement: expected {field} {expected}, got {str(statement.get(field))[:80]!r}")
    _check_subject(statement.get("subject"), _subject(digest, adapter))
    if digest_of(canonical_json(statement.get("predicate")).encode()) != digest:
        raise InvalidSignature(f"statement: expected the manifest of {digest} as predicate, got another value")
    return opened


def verify(envelope: bytes, digest: str, adapter: AdapterName, keys: Iterable[PublicKey]) -> tuple[str, ...]:
    """Ids of those of the keys that signed this manifest as a version of this adapter; none where none did.

    Raises InvalidSignature where the envelope is about something else, or claims a key that did not sign.
    """
    return read(envelope, digest, adapter).signers(keys)


def signers(
    envelopes: Iterable[bytes], digest: str, adapter: AdapterName, keys: Sequence[PublicKey]
) -> tuple[str, ...]:
    """As `verify`, over many envelopes; one that does not hold counts for nothing and spoils no other."""
    found: dict[str, None] = {}
    for envelope in envelopes:
        with suppress(InvalidSignature):
            found.update(dict.fromkeys(verify(envelope, digest, adapter, keys)))
    return tuple(found)


def _subject(digest: str, adapter: AdapterName) -> dict[str, object]:
    return {
        "name": f"{adapter.namespace}/{adapter.name}",
        "digest": {_ALGORITHM: digest.removeprefix(f"{_ALGORITHM}:")},
    }


def _check_subject(subjects: object, expected: dict[str, object]) -> None:
    # One statement may be about several names. Further digests of a subject are other algorithms' business.
    for subject in subjects if isinstance(subjects, list) else ():
        if isinstance(subject, dict) and isinstance(subject.get("digest"), dict):
            known = {"name": subject.get("name"), "digest": {_ALGORITHM: subject["digest"].get(_ALGORITHM)}}
            if known == expected:
                return
    raise InvalidSignature(f"statement: expected the subject {canonical_json(expected)}, got {str(subjects)[:300]}")
