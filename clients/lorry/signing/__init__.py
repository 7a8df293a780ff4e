"""Signatures over manifests: DSSE envelopes around in-toto statements, with Ed25519 keys.

Owns who signed which manifest under which name, checked offline: no call, no registry, no clock.
Needs the extra `sign`. Does not know where keys or signatures are kept, nor who trusts whom.
"""

from lorry.signing.envelope import Envelope
from lorry.signing.keys import PublicKey, SigningKey, new_key, public_key, signing_key
from lorry.signing.statement import read, sign, signers, verify

__all__ = [
    "Envelope",
    "PublicKey",
    "SigningKey",
    "new_key",
    "public_key",
    "read",
    "sign",
    "signers",
    "signing_key",
    "verify",
]
