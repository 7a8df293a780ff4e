"""DSSE, the Dead Simple Signing Envelope: what is signed, by which keys, in one JSON object.

Owns the envelope's JSON, its bounds, and the bytes that a signature covers. Does not know what the
payload says. https://github.com/secure-systems-lab/dsse
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lorry.errors import InvalidAdapter, InvalidSignature
from lorry.format.manifest import canonical_json
from lorry.format.strict_json import Limits, parse_object
from lorry.signing.keys import PublicKey, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
# What the wire promises; the statement about a manifest of 100 KB takes 140 KB.
MAX_ENVELOPE = 1 << 20
# Keys that sign one envelope together.
_MAX_SIGNERS = 8
# Object, list, object; and three members for each signature with as many that others put there.
_LIMITS = Limits(size=MAX_ENVELOPE, depth=4, values=128)
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and its signatures by key id. Who claims to have signed is not yet who did: see `signers`."""

    payload: bytes
    signatures: dict[str, bytes]

    def signers(self, keys: Iterable[PublicKey]) -> tuple[str, ...]:
        """Ids of those of the keys that signed. Raises InvalidSignature where one is claimed that did not."""
        covered = covered_bytes(self.payload)
        claimed = [key for key in keys if key.id in self.signatures]
        for key in claimed:
            if not key.signed(covered, self.signatures[key.id]):
                raise InvalidSignature(f"expected a signature by key {key.id}, got one that it did not make")
        return tuple(key.id for key in claimed)


def seal(payload: bytes, key: SigningKey) -> bytes:
    """The envelope as JSON; equal for equal payloads and keys."""
    signature = {"keyid": key.public.id, "sig": _encoded(key.sign(covered_bytes(payload)))}
    envelope = {"payload": _encoded(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}
    return canonical_json(envelope).encode()


def parse_envelope(data: bytes) -> Envelope:
    """The envelope in JSON from anybody. Raises InvalidSignature."""
    try:
        fields = parse_object(data, "envelope", _LIMITS)
    except InvalidAdapter as error:
        raise InvalidSignature(error.message) from error
    kind, signatures = fields.get("payloadType"), fields.get("signatures")
    if kind != PAYLOAD_TYPE:
        raise InvalidSignature(f"envelope: expected payloadType {PAYLOAD_TYPE}, got {str(kind)[:80]!r}")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= _MAX_SIGNERS:
        raise InvalidSignature(f"envelope: expected a list of 1 to {_MAX_SIGNERS} signatures, got another value")
    by_key = dict(map(_signature, signatures))
    if len(by_key) != len(signatures):
        raise InvalidSignature("envelope: expected one signature a key, got two of one")
    return Envelope(_decoded(fields.get("payload"), "payload"), by_key)


def covered_bytes(payload: bytes) -> bytes:
    """What a signature covers: DSSE's pre-authentication encoding of type and payload."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _signature(entry: object) -> tuple[str, bytes]:
    fields = entry if isinstance(entry, dict) else {}
    key_id = fields.get("keyid")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise InvalidSignature(f"envelope: expected a keyid, sha256 of the key in hex, got {str(key_id)[:80]!r}")
    return key_id, _decoded(fields.get("sig"), "sig")


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: object, what: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidSignature(f"envelope: expected {what} in base64, got {type(text).__name__}")
    # DSSE lets writers choose the standard or the URL-safe alphabet.
    try:
        return base64.b64decode(text.translate(_URL_SAFE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSignature(f"envelope: expected {what} in base64: {error}") from error
