from __future__ import annotations

import hashlib
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lorry.errors import InvalidInput
from lorry.signing import new_key, public_key, signing_key


def test_the_two_halves_of_a_pair_have_one_id() -> None:
    private, public = new_key()
    assert signing_key(private).public.id == public_key(public).id


def test_two_pairs_have_two_ids() -> None:
    assert public_key(new_key()[1]).id != public_key(new_key()[1]).id


def test_the_id_is_the_digest_of_what_openssl_calls_the_key() -> None:
    public = new_key()[1]
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=public, capture_output=True, check=True
    ).stdout
    assert public_key(public).id == hashlib.sha256(der).hexdigest()


def test_a_public_key_comes_back_as_it_was_written() -> None:
    public = new_key()[1]
    assert public_key(public).pem == public


def test_only_the_key_that_signed_and_only_the_same_bytes_hold() -> None:
    key, other = signing_key(new_key()[0]), signing_key(new_key()[0])
    signature = key.sign(b"pirate")
    assert key.public.signed(b"pirate", signature)
    assert not other.public.signed(b"pirate", signature)
    assert not key.public.signed(b"Pirate", signature)
    assert not key.public.signed(b"pirate", signature[:-1])


def test_a_passphrase_locks_the_private_half() -> None:
    private, public = new_key(b"open sesame")
    assert b"ENCRYPTED" in private
    assert signing_key(private, b"open sesame").public.id == public_key(public).id
    for wrong in (None, b"open barley"):
        with pytest.raises(InvalidInput, match="passphrase"):
            signing_key(private, wrong)


def other_curve() -> tuple[bytes, bytes]:
    key = generate_private_key(SECP256R1())
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


@pytest.mark.parametrize("pem", [b"", b"no key", new_key()[1], other_curve()[0], b"-" * 20_000])
def test_what_is_no_private_ed25519_key_is_refused(pem: bytes) -> None:
    with pytest.raises(InvalidInput, match="key: expected"):
        signing_key(pem)


@pytest.mark.parametrize("pem", [b"", b"no key", new_key()[0], other_curve()[1], b"-" * 20_000])
def test_what_is_no_public_ed25519_key_is_refused(pem: bytes) -> None:
    with pytest.raises(InvalidInput, match="key: expected"):
        public_key(pem)
