"""What a catalogue promises about signatures, and about the keys that a namespace trusts."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from adapter_registry.domain.namespaces import NamespaceChange
from adapter_registry.domain.records import Page, VersionRecord
from adapter_registry.store.catalog import SqlCatalog
from lorry.errors import AdapterNotFound, Exhausted, InvalidSignature, SignatureRequired, VersionNotFound
from lorry.format.manifest import Manifest
from lorry.signing import SigningKey, new_key, sign, signers, signing_key
from tests.suites.catalog_values import a_manifest, a_version, adapter, publish, ref

KEY, OTHER, STRANGER = (signing_key(new_key()[0]) for _ in range(3))


def signed(key: SigningKey, manifest: Manifest, name: str = "cat") -> tuple[bytes]:
    return (sign(manifest, adapter(name), key),)


def bent(envelope: bytes, made_by: bytes = b"x") -> bytes:
    """The envelope with a signature that nobody made."""
    fields = json.loads(envelope)
    fields["signatures"][0]["sig"] = base64.b64encode(made_by * 64).decode()
    return json.dumps(fields).encode()


def together(*envelopes: bytes) -> bytes:
    """One envelope with the signatures of all."""
    first, *more = map(json.loads, envelopes)
    first["signatures"] += [signature for each in more for signature in each["signatures"]]
    return json.dumps(first).encode()


def holding(version: VersionRecord, *keys: SigningKey) -> tuple[str, ...]:
    """Whose signatures hold, for somebody who trusts these keys."""
    return signers(version.signatures, version.digest, adapter("cat"), [key.public for key in keys])


def trust(catalog: SqlCatalog, *keys: SigningKey, namespace: str = "default") -> None:
    pems = tuple(key.public.pem.decode() for key in keys)
    catalog.update_namespace(NamespaceChange(namespace, trusted_keys=pems))


class SignatureRules:
    def test_signatures_come_back_in_the_order_in_which_they_came(self, catalog: SqlCatalog) -> None:
        first, second = signed(KEY, a_manifest()), signed(OTHER, a_manifest())
        version, _ = catalog.create_version(replace(a_version(), signatures=first))
        assert version.signatures == first
        later, created = catalog.create_version(replace(a_version(), signatures=second))
        assert (created, later.signatures) == (False, (*first, *second))
        assert catalog.get_version(ref("cat@1")) == catalog.resolve(ref("cat")) == later

    def test_a_list_is_told_without_signatures(self, catalog: SqlCatalog) -> None:
        catalog.create_version(replace(a_version(), signatures=signed(KEY, a_manifest())))
        assert [v.signatures for v in catalog.list_versions(adapter("cat"), Page()).items] == [()]

    def test_signatures_are_added_to_what_is_published(self, catalog: SqlCatalog) -> None:
        digest = publish(catalog)
        theirs = signed(KEY, a_manifest())
        assert catalog.add_signatures(ref(f"cat@{digest}"), theirs).signatures == theirs
        assert catalog.add_signatures(ref(f"cat@{digest}"), theirs).signatures == theirs

    def test_a_signature_by_the_same_key_takes_the_place_of_the_one_before(self, catalog: SqlCatalog) -> None:
        theirs = signed(KEY, a_manifest())
        catalog.create_version(replace(a_version(), signatures=(bent(*theirs),)))
        trust(catalog, KEY)
        assert catalog.add_signatures(ref("cat"), theirs).signatures == theirs

    def test_who_claims_a_key_that_nobody_here_knows_neither_erases_nor_shuts_out_its_signature(
        self, catalog: SqlCatalog
    ) -> None:
        first, last = (bent(*signed(KEY, a_manifest()), made_by=by) for by in (b"x", b"y"))
        for envelope in (first, *signed(KEY, a_manifest()), last):
            version, _ = catalog.create_version(replace(a_version(), signatures=(envelope,)))
        assert version.signatures == (first, *signed(KEY, a_manifest()), last)
        assert holding(version, KEY) == (KEY.public.id,)
        trust(catalog, KEY)
        (again,) = signed(KEY, a_manifest())
        settled = catalog.add_signatures(ref("cat"), [together(again, *signed(OTHER, a_manifest()))])
        assert holding(settled, KEY, OTHER) == (KEY.public.id, OTHER.public.id)
        assert first not in settled.signatures
        assert last not in settled.signatures

    def test_one_may_sign_beside_another_in_one_envelope(self, catalog: SqlCatalog) -> None:
        mine, yours = signed(KEY, a_manifest()), signed(OTHER, a_manifest())
        catalog.create_version(replace(a_version(), signatures=mine))
        both = together(*mine, *yours)
        version = catalog.add_signatures(ref("cat"), [both])
        assert version.signatures == (*mine, both)
        assert set(holding(version, KEY, OTHER)) == {KEY.public.id, OTHER.public.id}

    def test_what_does_not_exist_cannot_be_signed(self, catalog: SqlCatalog) -> None:
        with pytest.raises(AdapterNotFound):
            catalog.add_signatures(ref("cat"), signed(KEY, a_manifest()))
        publish(catalog)
        with pytest.raises(VersionNotFound):
            catalog.add_signatures(ref(f"cat@{a_manifest(2).digest}"), signed(KEY, a_manifest(2)))

    def test_without_trusted_keys_any_signature_is_kept_and_none_is_needed(self, catalog: SqlCatalog) -> None:
        catalog.create_version(replace(a_version(), signatures=signed(STRANGER, a_manifest())))
        publish(catalog, seed=2)

    def test_a_namespace_takes_only_what_one_of_its_keys_signed(self, catalog: SqlCatalog) -> None:
        trust(catalog, KEY, OTHER)
        for signatures in ((), signed(STRANGER, a_manifest())):
            with pytest.raises(SignatureRequired, match=KEY.public.id):
                catalog.create_version(replace(a_version(), signatures=signatures))
        with pytest.raises(AdapterNotFound):
            catalog.get_version(ref("cat"))
        assert catalog.last_event() == 0
        both = signed(STRANGER, a_manifest()) + signed(OTHER, a_manifest())
        assert len(catalog.create_version(replace(a_version(), signatures=both))[0].signatures) == 2

    def test_another_namespace_has_its_own_keys(self, catalog: SqlCatalog) -> None:
        trust(catalog, KEY, namespace="team")
        publish(catalog)
        with pytest.raises(SignatureRequired):
            publish(catalog, "team/cat")
        # Signed, but as a version of another adapter.
        with pytest.raises(InvalidSignature, match="subject"):
            catalog.create_version(replace(a_version("team/cat"), signatures=signed(KEY, a_manifest())))

    def test_a_trusted_keys_id_does_not_help_a_signature_that_it_did_not_make(self, catalog: SqlCatalog) -> None:
        trust(catalog, KEY)
        spoilt = bent(*signed(KEY, a_manifest()))
        with pytest.raises(InvalidSignature):
            catalog.create_version(replace(a_version(), signatures=(spoilt, *signed(OTHER, a_manifest()))))

    def test_what_was_kept_unverified_does_not_count_when_its_key_is_trusted(self, catalog: SqlCatalog) -> None:
        catalog.create_version(replace(a_version(), signatures=(bent(*signed(KEY, a_manifest())),)))
        trust(catalog, KEY)
        with pytest.raises(SignatureRequired):
            catalog.create_version(a_version(alias="prod"))
        catalog.create_version(replace(a_version(alias="prod"), signatures=signed(KEY, a_manifest())))

    def test_what_was_published_before_the_policy_stays_and_is_not_published_again(self, catalog: SqlCatalog) -> None:
        publish(catalog)
        trust(catalog, KEY)
        assert catalog.resolve(ref("cat")).number == 1
        with pytest.raises(SignatureRequired):
            publish(catalog, alias="prod")
        catalog.add_signatures(ref("cat"), signed(KEY, a_manifest()))
        publish(catalog, alias="prod")

    def test_a_version_keeps_no_more_signatures_than_a_message_takes(self, catalog: SqlCatalog) -> None:
        many = tuple(bent(*signed(STRANGER, a_manifest()), made_by=bytes([number])) for number in range(16))
        catalog.create_version(replace(a_version(), signatures=many))
        catalog.add_signatures(ref("cat"), many)
        with pytest.raises(Exhausted, match="16 envelopes"):
            catalog.add_signatures(ref("cat"), signed(KEY, a_manifest()))
        # What is proven finds room among what nobody can vouch for; what is proven itself stays.
        trust(catalog, KEY, OTHER)
        for number, key in enumerate((KEY, OTHER), 1):
            version = catalog.add_signatures(ref("cat"), signed(key, a_manifest()))
            assert (len(version.signatures), version.signatures[-1:]) == (16, signed(key, a_manifest()))
            assert version.signatures[: 16 - number] == many[number:]

    def test_signatures_go_with_their_version(self, catalog: SqlCatalog) -> None:
        catalog.create_version(replace(a_version(), signatures=signed(KEY, a_manifest())))
        catalog.delete_version(ref("cat@1"), force=False)
        assert catalog.create_version(a_version())[0].signatures == ()
