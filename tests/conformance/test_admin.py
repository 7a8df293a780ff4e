"""Running a registry: namespaces and quotas, garbage, integrity, the audit log."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from lorry.errors import (
    AlreadyRunning,
    InvalidFieldMask,
    InvalidInput,
    InvalidName,
    QuotaExceeded,
    RevisionConflict,
    SignatureRequired,
)
from lorry.v1 import admin_pb2
from tests.conformance.guest import Guest, until

# A check of a large deployment takes hours: after so many reports the suite has seen enough.
REPORTS = 5


def a_key() -> str:
    public = Ed25519PrivateKey.generate().public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


async def read(guest: Guest) -> admin_pb2.Namespace:
    namespace: admin_pb2.Namespace = (await guest.call("GetNamespace")).namespace
    return namespace


async def write(guest: Guest, revision: int = 0, **limits: Any) -> admin_pb2.Namespace:
    wanted = admin_pb2.Namespace(name=guest.namespace, revision=revision, **limits)
    answer = await guest.call("UpdateNamespace", namespace=wanted, update_mask=FieldMask(paths=limits))
    changed: admin_pb2.Namespace = answer.namespace
    return changed


async def test_a_namespace_that_nobody_wrote_to_has_no_limits_and_holds_nothing(guest: Guest) -> None:
    assert await read(guest) == admin_pb2.Namespace(name=guest.namespace)
    with pytest.raises(InvalidName):
        await guest.call("GetNamespace", namespace="Not a name")


async def test_a_namespace_says_what_it_holds_each_blob_once(guest: Guest) -> None:
    versions = await guest.several(2)
    await guest.publish("twin")
    sizes = {file.digest: file.size_bytes for version in versions for file in version.manifest.files}
    held = await read(guest)
    assert (held.adapter_count, held.used_versions, held.used_bytes) == (2, 3, sum(sizes.values()))
    listed = {namespace.name: namespace async for namespace in guest.sdk.namespaces()}
    assert listed[guest.namespace] == held


async def test_what_is_not_masked_stays_and_limits_are_lifted_again(operator: Guest) -> None:
    key = a_key()
    await write(operator, max_bytes=5, trusted_keys=[key, key])
    changed = await write(operator, max_versions=7)
    assert (changed.max_bytes, changed.max_versions, list(changed.trusted_keys), changed.revision) == (5, 7, [key], 2)
    lifted = await write(operator, max_bytes=0, max_versions=0, trusted_keys=[])
    assert lifted == admin_pb2.Namespace(name=operator.namespace, revision=3) == await read(operator)


async def test_a_change_of_an_older_state_is_refused(operator: Guest) -> None:
    first = await write(operator, max_bytes=5)
    await write(operator, first.revision, max_bytes=6)
    with pytest.raises(RevisionConflict) as refused:
        await write(operator, first.revision, max_bytes=7)
    assert refused.value.metadata["revision"] == "2"
    assert (await read(operator)).max_bytes == 6


async def test_limits_keys_and_masks_that_cannot_be_are_refused(operator: Guest, subtests: pytest.Subtests) -> None:
    impossible: list[dict[str, Any]] = [
        {"max_bytes": -1},
        {"max_versions": -1},
        {"trusted_keys": ["no key"]},
        {"trusted_keys": [a_key() for _ in range(17)]},
    ]
    for limits in impossible:
        with subtests.test(limits=str(limits)[:60]), pytest.raises(InvalidInput):
            await write(operator, **limits)
    namespace = admin_pb2.Namespace(name=operator.namespace)
    for paths in ([], ["used_bytes"], ["max_bytes", "name"]):
        with subtests.test(paths=paths), pytest.raises(InvalidFieldMask):
            await operator.call("UpdateNamespace", namespace=namespace, update_mask=FieldMask(paths=paths))
    assert (await read(operator)).revision == 0


async def test_bytes_beyond_the_quota_are_refused_at_the_header_and_versions_at_the_publication(
    operator: Guest,
) -> None:
    config, weights = operator.files()
    await write(operator, max_bytes=len(weights))
    with pytest.raises(QuotaExceeded, match=operator.namespace):
        await operator.publish("pirate")
    await write(operator, max_bytes=len(config) + len(weights), max_versions=1)
    assert (await operator.publish("pirate")).number == 1
    with pytest.raises(QuotaExceeded):
        await operator.publish("twin")
    assert (await operator.publish("pirate")).number == 1


async def test_a_namespace_with_keys_takes_nothing_unsigned(operator: Guest) -> None:
    await write(operator, trusted_keys=[a_key()])
    with pytest.raises(SignatureRequired):
        await operator.publish("pirate")


async def test_a_change_of_limits_is_in_the_audit_log(operator: Guest) -> None:
    await write(operator, max_bytes=5, max_versions=6)
    (entry,) = (await operator.call("ListAuditEntries", action="UpdateNamespace")).entries
    assert (entry.name, entry.detail) == (operator.namespace, "max_bytes 5, max_versions 6")
    with pytest.raises(InvalidName):
        await operator.call("ListAuditEntries", namespace="Not a name")


async def test_garbage_is_counted_and_collected(operator: Guest) -> None:
    version = await operator.publish("pirate")

    async def collected(**fields: Any) -> admin_pb2.CollectGarbageResponse | None:
        try:
            answer: admin_pb2.CollectGarbageResponse = await operator.call("CollectGarbage", **fields)
        except AlreadyRunning:  # the registry's own
            return None
        return answer

    async def done() -> bool:
        dry = await collected(dry_run=True)
        assert dry is None or dry.kept_blobs >= len(version.manifest.files)
        return dry is not None and await collected() is not None

    await until(done)
    for file in version.manifest.files:
        pieces = await operator.stream("Read", digest=file.digest)
        assert sum(len(piece.data) for piece in pieces) == file.size_bytes
    with pytest.raises(InvalidInput):
        await operator.call("CollectGarbage", dry_run=True, grace=Duration(seconds=-1))


async def test_a_check_reports_how_far_it_is_and_finds_nothing_of_ours(operator: Guest) -> None:
    await operator.publish("pirate")
    reports: list[admin_pb2.FsckResponse] = []
    call = operator.open("Fsck")
    async for report in call:
        reports.append(report)
        if len(reports) == REPORTS:
            call.cancel()
            break
    assert not [r for r in reports if any(v.startswith(operator.namespace) for v in r.finding.versions)]
    assert len(reports) == REPORTS or reports[-1].progress.done
