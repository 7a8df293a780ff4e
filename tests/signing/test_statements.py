"""What a signature says, and that nothing else passes for one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from lorry.errors import InvalidSignature
from lorry.format.manifest import manifest_from_json
from lorry.format.reference import parse_adapter_name
from lorry.signing import new_key, read, sign, signers, signing_key, verify
from tests.suites.catalog_values import a_manifest

KEY, OTHER = signing_key(new_key()[0]), signing_key(new_key()[0])
MANIFEST = a_manifest()
DIGEST = MANIFEST.digest
PIRATE = parse_adapter_name("team/pirate")
SIGNED = sign(MANIFEST, PIRATE, KEY)


def forged(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The envelope with other fields; its signature as it was."""
    fields = json.loads(SIGNED)
    change(fields)
    return json.dumps(fields).encode()


def stating(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Another statement, signed by the right key as DSSE asks for it."""
    statement = json.loads(base64.b64decode(json.loads(SIGNED)["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    kind = b"application/vnd.in-toto+json"
    covered = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])

    def put(fields: dict[str, Any]) -> None:
        fields["payload"] = base64.b64encode(payload).decode()
        fields["signatures"][0]["sig"] = base64.b64encode(KEY.sign(covered)).decode()

    return forged(put)


def test_a_signature_holds_for_its_manifest_its_adapter_and_its_key() -> None:
    assert verify(SIGNED, DIGEST, PIRATE, [OTHER.public, KEY.public]) == (KEY.public.id,)
    assert verify(SIGNED, DIGEST, PIRATE, [OTHER.public]) == ()


def test_signing_the_same_again_gives_the_same_bytes() -> None:
    assert sign(MANIFEST, PIRATE, KEY) == SIGNED


def test_a_signature_is_not_about_another_manifest() -> None:
    with pytest.raises(InvalidSignature, match="expected the subject"):
        verify(SIGNED, a_manifest(2).digest, PIRATE, [KEY.public])


def test_a_signature_is_not_about_the_same_bytes_under_another_name() -> None:
    for name in ("team/parrot", "pirate", "crew/pirate"):
        with pytest.raises(InvalidSignature, match="expected the subject"):
            verify(SIGNED, DIGEST, parse_adapter_name(name), [KEY.public])


def test_the_statement_carries_the_whole_manifest() -> None:
    statement = json.loads(read(SIGNED, DIGEST, PIRATE).payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "team/pirate", "digest": {"sha256": DIGEST.removeprefix("sha256:")}}]
    canonical = json.dumps(statement["predicate"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert manifest_from_json(canonical.encode()) == MANIFEST


def test_what_a_manifest_does_beyond_lora_is_signed_too() -> None:
    beyond = replace(MANIFEST, features=("alora",))

    envelope = sign(beyond, PIRATE, KEY)

    assert verify(envelope, beyond.digest, PIRATE, [KEY.public]) == (KEY.public.id,)
    assert json.loads(read(envelope, beyond.digest, PIRATE).payload)["predicate"]["features"] == ["alora"]


def test_another_tool_verifies_what_was_signed_here() -> None:
    public = load_pem_public_key(KEY.public.pem)
    theirs = SSlibKey.from_crypto(public, keyid=KEY.public.id)
    envelope = Envelope.from_dict(json.loads(SIGNED))
    assert list(envelope.verify([theirs], threshold=1)) == [KEY.public.id]
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([theirs], threshold=1)


def test_one_statement_may_be_about_several_names() -> None:
    def also(statement: dict[str, Any]) -> None:
        statement["subject"].append(statement["subject"][0] | {"name": "prod/pirate"})

    both = stating(also)
    for adapter in (PIRATE, parse_adapter_name("prod/pirate")):
        assert verify(both, DIGEST, adapter, [KEY.public]) == (KEY.public.id,)


def test_what_another_writer_may_do_otherwise_is_read() -> None:
    def respelt(fields: dict[str, Any]) -> None:
        fields["payload"] = fields["payload"].replace("+", "-").replace("/", "_")
        fields["signatures"][0]["sig"] = fields["signatures"][0]["sig"].replace("+", "-").replace("/", "_")
        fields["more"] = fields["signatures"][0]["cert"] = "what somebody adds"

    assert verify(forged(respelt), DIGEST, PIRATE, [KEY.public]) == (KEY.public.id,)


def test_of_many_envelopes_one_that_is_broken_spoils_no_other() -> None:
    broken = forged(lambda fields: fields["signatures"][0].update(sig="AAAA"))
    assert signers([broken, b"{", SIGNED], DIGEST, PIRATE, [KEY.public]) == (KEY.public.id,)
    assert signers([broken, b"{"], DIGEST, PIRATE, [KEY.public]) == ()


SHORT, LONG = base64.b64encode(b"x" * 63).decode(), base64.b64encode(b"x" * 64).decode()


@pytest.mark.parametrize("sig", [SHORT, LONG, ""])
def test_a_signature_that_the_named_key_did_not_make_is_refused(sig: str) -> None:
    with pytest.raises(InvalidSignature, match=KEY.public.id):
        verify(forged(lambda f: f["signatures"][0].update(sig=sig)), DIGEST, PIRATE, [KEY.public])


def test_a_signature_under_another_keys_id_is_refused() -> None:
    theirs = forged(lambda fields: fields["signatures"][0].update(keyid=OTHER.public.id))
    with pytest.raises(InvalidSignature, match=OTHER.public.id):
        verify(theirs, DIGEST, PIRATE, [KEY.public, OTHER.public])


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda s: s.update(subject=[]),
        lambda s: s.update(subject="team/pirate"),
        lambda s: s["subject"][0].update(digest=DIGEST),
        lambda s: s["subject"][0].update(digest={"sha512": DIGEST.removeprefix("sha256:")}),
        lambda s: s["subject"][0].pop("name"),
        lambda s: s["predicate"].update(rank=5),
        lambda s: s.update(predicate=None),
        lambda s: s.update(predicate=json.loads("[" * 5 + "]" * 5)),
    ],
)
def test_a_well_signed_statement_about_something_else_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(InvalidSignature, match="statement"):
        verify(stating(change), DIGEST, PIRATE, [KEY.public])


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        SIGNED[:-1],
        SIGNED + b" " * (1 << 20),
        b'{"payload":' + b"[" * 100_000,
        SIGNED.replace(b'"payloadType"', b'"payload":"","payloadType"'),
        forged(lambda f: f.update(payloadType="text/plain")),
        forged(lambda f: f.pop("payload")),
        forged(lambda f: f.update(payload=7)),
        forged(lambda f: f.update(payload="not base64!")),
        forged(lambda f: f.update(payload=base64.b64encode(b"[]").decode())),
        forged(lambda f: f.update(signatures=[])),
        forged(lambda f: f.update(signatures={})),
        forged(lambda f: f.update(signatures=f["signatures"] * 2)),
        forged(lambda f: f.update(signatures=["x"])),
        forged(lambda f: f.update(signatures=[{"keyid": f"{n:064x}", "sig": ""} for n in range(9)])),
        forged(lambda f: f["signatures"][0].pop("keyid")),
        forged(lambda f: f["signatures"][0].update(keyid="../../etc/passwd")),
        forged(lambda f: f["signatures"][0].update(sig=None)),
    ],
    ids=range(21),
)
def test_what_is_no_envelope_is_refused(envelope: bytes) -> None:
    with pytest.raises(InvalidSignature):
        read(envelope, DIGEST, PIRATE)
