"""Signing at push, signing what is published, and what a namespace's policy lets in: over a real socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lorry import RegistryClient
from lorry.errors import (
    DigestMismatch,
    InvalidAdapter,
    InvalidInput,
    InvalidSignature,
    SignatureRequired,
    VersionNotFound,
)
from lorry.format.manifest import Recipe, RecipeSource
from lorry.format.reference import parse_adapter_name
from lorry.rpc.convert import file_from_pb, manifest_from_pb
from lorry.signing import new_key, sign, signing_key
from tests.support.adapters import BASE_NAME, adapter_bytes, write_adapter
from tests.support.evil_registry import evil_registry

KEY, OTHER = signing_key(new_key()[0]), signing_key(new_key()[0])


async def trust(client: RegistryClient, *keys: str, namespace: str = "default") -> None:
    await client.update_namespace(namespace, trusted_keys=keys)


def pem() -> str:
    return KEY.public.pem.decode()


async def test_what_was_signed_at_push_verifies(client: RegistryClient, folder: Path) -> None:
    pushed = await client.push(folder, "team/pirate", base=BASE_NAME, key=KEY)
    version, signers = await client.verify("team/pirate", [OTHER.public, KEY.public])
    assert (version, signers) == (pushed, (KEY.public.id,))
    with pytest.raises(SignatureRequired, match=OTHER.public.id):
        await client.verify("team/pirate", [OTHER.public])


async def test_the_manifest_is_known_before_the_registry_derives_it(
    client: RegistryClient, folder: Path, tmp_path: Path
) -> None:
    # With a base that only the configuration names, with parents, with a recipe and with the parent of a pull.
    first = await client.push(folder, "pirate", key=KEY)
    recipe = Recipe("ties", '{"density":0.5}', (RecipeSource(first.digest, -0.5),), "lorry 0.1.0")
    child = write_adapter(tmp_path / "child", seed=1)
    await client.push(child, "child", base=BASE_NAME, parents=["pirate@1", "pirate"], recipe=recipe, key=KEY)
    await client.pull("pirate", tmp_path / "pulled")
    write_adapter(tmp_path / "pulled", seed=2)
    await client.push(tmp_path / "pulled", "pirate", key=KEY)
    for reference in ("pirate@1", "child@1", "pirate@2"):
        assert (await client.verify(reference, [KEY.public]))[1] == (KEY.public.id,)


async def test_a_published_version_is_signed_as_it_is(client: RegistryClient, folder: Path, tmp_path: Path) -> None:
    await client.push(folder, "pirate")
    await client.pull("pirate", tmp_path / "pulled")
    write_adapter(tmp_path / "pulled", seed=2)
    child = await client.push(tmp_path / "pulled", "pirate", alias="prod")
    await client.delete_version("pirate@1", force=True)  # its parent need not be there any more
    assert (await client.sign_version("pirate:prod", KEY)).digest == child.digest
    both = await client.sign_version("pirate", OTHER)
    assert len(both.signatures) == 2
    assert set((await client.verify("pirate", [KEY.public, OTHER.public]))[1]) == {KEY.public.id, OTHER.public.id}


async def test_a_namespace_with_keys_takes_nothing_else(client: RegistryClient, folder: Path) -> None:
    await trust(client, pem())
    for key in (None, OTHER):
        with pytest.raises(SignatureRequired, match=KEY.public.id):
            await client.push(folder, "pirate", key=key)
    assert [adapter async for adapter in client.adapters()] == []
    await client.push(folder, "pirate", key=KEY)
    await client.push(folder, "team/pirate")
    await trust(client)
    await client.push(folder, "parrot")


async def test_a_signed_version_published_under_another_name_needs_a_signature_of_its_own(
    client: RegistryClient, folder: Path
) -> None:
    signed = await client.push(folder, "pirate", key=KEY)
    await trust(client, pem())
    files = [file_from_pb(file) for file in signed.manifest.files]
    with pytest.raises(InvalidSignature, match="subject"):
        await client.create_version("parrot", files, signatures=list(signed.signatures))
    assert (await client.push(folder, "parrot", key=KEY)).digest == signed.digest


async def test_a_signature_over_other_bytes_is_refused(client: RegistryClient, folder: Path, tmp_path: Path) -> None:
    signed = await client.push(folder, "pirate", key=KEY)
    other = await client.push(write_adapter(tmp_path / "other", seed=1), "other")
    files = [file_from_pb(file) for file in other.manifest.files]
    with pytest.raises(InvalidSignature, match="subject"):
        await client.create_version("pirate", files, signatures=list(signed.signatures))
    assert [version.number async for version in client.versions("pirate")] == [1]


async def test_a_registry_that_derives_another_manifest_than_was_signed_refuses(
    client: RegistryClient, folder: Path
) -> None:
    signed = await client.push(folder, "pirate", key=KEY)
    files = [file_from_pb(file) for file in signed.manifest.files]
    with pytest.raises(InvalidAdapter, match=f"expected a manifest of digest {signed.digest}"):
        await client.create_version(
            "child", files, parents=["pirate"], expected_digest=signed.digest, signatures=list(signed.signatures)
        )


async def test_signatures_alone_go_to_a_version_that_is_there(client: RegistryClient, folder: Path) -> None:
    version = await client.push(folder, "pirate")
    envelope = sign(manifest_from_pb(version.manifest), parse_adapter_name("pirate"), KEY)
    ghost = "sha256:" + "0" * 64
    with pytest.raises(InvalidSignature):
        await client.create_version("pirate", (), expected_digest=ghost, signatures=[envelope])
    await client.push(folder, "other")
    await client.delete_version("pirate@1")
    with pytest.raises(VersionNotFound):
        await client.create_version("pirate", (), expected_digest=version.digest, signatures=[envelope])


@pytest.mark.parametrize(
    "extra", [{"alias": "prod"}, {"base": BASE_NAME}, {"parents": ["pirate"]}, {"labels": {"a": "b"}}]
)
async def test_signatures_alone_come_alone(client: RegistryClient, folder: Path, extra: dict[str, object]) -> None:
    version = await client.push(folder, "pirate")
    envelope = sign(manifest_from_pb(version.manifest), parse_adapter_name("pirate"), KEY)
    with pytest.raises(InvalidInput, match="nothing besides"):
        await client.create_version("pirate", (), expected_digest=version.digest, signatures=[envelope], **extra)


async def test_too_many_signatures_at_once_are_refused(client: RegistryClient, folder: Path) -> None:
    version = await client.push(folder, "pirate")
    with pytest.raises(InvalidInput, match="at most 8"):
        await client.create_version("pirate", (), expected_digest=version.digest, signatures=[b"{}"] * 9)


async def test_verifying_does_not_believe_the_registry(
    client: RegistryClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await client.push(folder, "pirate", key=KEY)
    await client.push(folder, "parrot")
    lie = await client.version("parrot")
    lie.signatures.extend(version.signatures)

    async def answer(_reference: str) -> object:
        return lie

    monkeypatch.setattr(client, "version", answer)
    with pytest.raises(SignatureRequired):  # the right bytes, signed, but as another adapter
        await client.verify("parrot", [KEY.public])
    lie.manifest.rank += 1
    with pytest.raises(DigestMismatch):
        await client.verify("pirate", [KEY.public])


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, pinned, _: client.verify(pinned, [KEY.public]),
        lambda client, pinned, folder: client.pull(pinned, folder / "out"),
        lambda client, pinned, _: client.sign_version(pinned, KEY),
        lambda client, pinned, _: client.recipe(pinned),
    ],
    ids=["verify", "pull", "sign", "recipe"],
)
async def test_a_digest_is_answered_by_nothing_else(tmp_path: Path, ask: Callable[..., Awaitable[object]]) -> None:
    """However well the other version is signed, under the same name."""
    async with evil_registry() as (registry, address), RegistryClient(address, timeout=20) as client:
        version = registry.add("pirate", *adapter_bytes(), "")
        manifest = manifest_from_pb(version.manifest)
        version.signatures.append(sign(manifest, parse_adapter_name("pirate"), KEY))
        assert (await client.verify(f"pirate@{version.digest}", [KEY.public]))[0] == version
        with pytest.raises(DigestMismatch, match=version.digest):
            await ask(client, "pirate@sha256:" + "0" * 64, tmp_path)
