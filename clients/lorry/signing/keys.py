"""Ed25519 keys in PEM: made, read, and named by what they are.

Owns the id of a key, sha256 of its public half, so that equal keys have equal ids everywhere. Does
not know envelopes, files or who trusts a key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature as Mismatch
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lorry.errors import InvalidInput

# An Ed25519 key takes 113 bytes in PEM, 300 with a passphrase; text that some tools write around it comes besides.
_MAX_PEM = 1 << 14


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that checks. id: sha256, in hex, of the DER form of its SubjectPublicKeyInfo."""

    id: str
    _key: Ed25519PublicKey

    @property
    def pem(self) -> bytes:
        """SubjectPublicKeyInfo in PEM."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def signed(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, over these bytes."""
        try:
            self._key.verify(signature, data)
        except Mismatch:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs."""

    public: PublicKey
    _key: Ed25519PrivateKey

    def sign(self, data: bytes) -> bytes:
        """64 bytes; equal for equal data."""
        return self._key.sign(data)


def new_key(passphrase: bytes | None = None) -> tuple[bytes, bytes]:
    """A new pair as (private, public) PEM: PKCS 8, encrypted where there is a passphrase, and SubjectPublicKeyInfo."""
    key = Ed25519PrivateKey.generate()
    locked: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    return private, _named(key.public_key()).pem


def signing_key(pem: bytes, passphrase: bytes | None = None) -> SigningKey:
    """The private key in a PEM text. Raises InvalidInput: no Ed25519 key, or the passphrase is wrong or missing."""
    try:
        key = load_pem_private_key(_bounded(pem), passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError: a passphrase that is missing, or that came where none is needed.
        raise InvalidInput(f"private key: expected an Ed25519 key in PEM and its passphrase: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(f"private key: expected Ed25519, got {type(key).__name__}")
    return SigningKey(_named(key.public_key()), key)


def public_key(pem: bytes) -> PublicKey:
    """The public key in a PEM text. Raises InvalidInput where it holds no Ed25519 key."""
    try:
        key = load_pem_public_key(_bounded(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"public key: expected an Ed25519 key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInput(f"public key: expected Ed25519, got {type(key).__name__}")
    return _named(key)


def _named(key: Ed25519PublicKey) -> PublicKey:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(der).hexdigest(), key)


def _bounded(pem: bytes) -> bytes:
    if len(pem) > _MAX_PEM:
        raise InvalidInput(f"key: expected at most {_MAX_PEM} bytes of PEM, got {len(pem)}")
    return pem
