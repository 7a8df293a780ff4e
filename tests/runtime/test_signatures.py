"""What this worker loads when it trusts some keys: decided here, whatever the registry says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compute_worker.contract import PublishedAdapter
from compute_worker.runtime.signatures import SignaturePolicy, read_policy
from lorry.errors import AdapterNotFound, InvalidInput, SignatureRequired
from lorry.format.reference import AdapterName, parse_adapter_name
from lorry.signing import SigningKey, new_key, sign, signing_key
from tests.support.toy_registry import ToyRegistry
from tests.support.toy_world import call, running

KEY, OTHER = signing_key(new_key()[0]), signing_key(new_key()[0])
ONE = AdapterName("default", "one")
DIGEST = "sha256:" + "0" * 64
TRUSTING = SignaturePolicy({"*": (KEY.public,)})


def signed(registry: ToyRegistry, name: str, key: SigningKey, *, seed: int = 1) -> PublishedAdapter:
    """Publish an adapter with a signature."""
    adapter = parse_adapter_name(name)
    published = registry.add(name, seed=seed)
    return attach(registry, adapter, published, sign(published.manifest, adapter, key))


def attach(registry: ToyRegistry, adapter: AdapterName, published: PublishedAdapter, *by: bytes) -> PublishedAdapter:
    registry._versions[adapter][-1] = replace(published, signatures=by)
    return published


async def test_what_a_trusted_key_signed_is_loaded_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path, signatures=TRUSTING) as world:
        good = signed(world.registry, "one", KEY)
        signed(world.registry, "two", OTHER, seed=2)
        world.registry.add("three")
        request = call("hello", "one")
        assert (await world.ask(request)).tokens == world.expected(request, (good, 1.0))
        for name in ("two", "three"):
            with pytest.raises(SignatureRequired, match=KEY.public.id):
                await world.ask(call("hello", name))
        assert set(world.tiers()) == {good.digest}


async def test_signed_bytes_under_another_name_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, signatures=TRUSTING) as world:
        good = signed(world.registry, "one", KEY, seed=7)
        twin = world.registry.add("two", seed=7)
        assert twin.digest == good.digest
        envelope = sign(good.manifest, ONE, KEY)
        attach(world.registry, AdapterName("default", "two"), twin, envelope)
        await world.runtime.load("one")
        for reference in ("two", f"two@{twin.digest}"):
            with pytest.raises(SignatureRequired):
                await world.runtime.load(reference)


async def test_a_signature_that_came_later_counts(tmp_path: Path) -> None:
    async with running(tmp_path, signatures=TRUSTING) as world:
        late = world.registry.add("one")
        with pytest.raises(SignatureRequired):
            await world.runtime.load("one")
        attach(world.registry, ONE, late, b"{}", sign(late.manifest, ONE, KEY))
        assert (await world.runtime.load("one")).digest == late.digest


async def test_after_a_restart_without_registry_the_rules_of_now_hold(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = signed(registry, "one", KEY)
    async with running(tmp_path, registry=registry, signatures=TRUSTING) as world:
        await world.runtime.load("one")
    registry.down = True
    async with running(tmp_path, registry=registry, signatures=TRUSTING) as world:
        request = call("hello", f"one@{one.digest}")
        assert (await world.ask(request)).tokens == world.expected(request, (one, 1.0))
    strangers = SignaturePolicy({"*": (OTHER.public,)})
    async with running(tmp_path, registry=registry, signatures=strangers) as world:
        with pytest.raises(SignatureRequired):
            await world.ask(call("hello", f"one@{one.digest}"))


async def test_after_a_key_was_replaced_what_was_signed_again_is_served_by_digest(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = signed(registry, "one", OTHER)
    exact = call("hello", f"one@{one.digest}")
    async with running(tmp_path, registry=registry, signatures=SignaturePolicy({"*": (OTHER.public,)})) as world:
        await world.ask(exact)
    attach(registry, ONE, one, *(sign(one.manifest, ONE, key) for key in (OTHER, KEY)))
    async with running(tmp_path, registry=registry, signatures=TRUSTING) as world:
        await world.ask(exact)
    registry.down = True  # what was asked for anew is kept
    async with running(tmp_path, registry=registry, signatures=TRUSTING) as world:
        await world.ask(exact)


async def test_a_signature_that_came_while_it_was_known_is_kept(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = signed(registry, "one", OTHER)
    both = SignaturePolicy({"*": (KEY.public, OTHER.public)})
    async with running(tmp_path, registry=registry, signatures=both) as world:
        await world.runtime.load("one")
        attach(registry, ONE, one, sign(one.manifest, ONE, KEY))
        await world.runtime.load("one")
        attach(registry, ONE, one)  # none at all: what it was let in with stays
        await world.runtime.load("one")
    registry.down = True
    async with running(tmp_path, registry=registry, signatures=TRUSTING) as world:
        await world.ask(call("hello", f"one@{one.digest}"))


async def test_a_combination_is_as_trusted_as_its_sources(tmp_path: Path) -> None:
    registry = ToyRegistry()
    signed(registry, "one", KEY)
    registry.add("two")
    async with running(tmp_path, registry=registry) as world:
        free = await world.combine("one", "two")
        await world.runtime.load(free.adapter)
    async with running(tmp_path, registry=registry, signatures=TRUSTING) as world:
        with pytest.raises(SignatureRequired):
            await world.combine("one", "two")
        # It was made under other rules, and its bytes are still here.
        with pytest.raises(AdapterNotFound):
            await world.runtime.load(free.adapter)
        pure = await world.combine("one")
        assert (await world.runtime.load(pure.adapter)).digest == pure.recipe_digest


def test_a_namespace_has_its_own_keys_in_place_of_those_of_all() -> None:
    policy = SignaturePolicy({"*": (KEY.public,), "team": (OTHER.public,), "scratch": None})
    policy.check(AdapterName("scratch", "one"), DIGEST, ())
    for namespace, key in (("team", OTHER), ("crew", KEY)):
        with pytest.raises(SignatureRequired, match=key.public.id):
            policy.check(AdapterName(namespace, "one"), DIGEST, ())


def test_a_namespace_that_no_line_names_is_closed() -> None:
    with pytest.raises(SignatureRequired, match="none is trusted"):
        SignaturePolicy({"team": (KEY.public,)}).check(ONE, DIGEST, ())


def test_policies_are_told_apart_and_none_has_no_mark() -> None:
    policies = [{}, {"*": (KEY.public,)}, {"team": (KEY.public,)}, {"*": (KEY.public,), "team": None}]
    assert read_policy(None).mark == ""
    assert len({SignaturePolicy(trusted).mark for trusted in policies} - {""}) == len(policies)
    assert (
        SignaturePolicy({"*": (KEY.public, OTHER.public)}).mark
        == SignaturePolicy({"*": (OTHER.public, KEY.public)}).mark
    )


def test_a_file_of_keys_is_read_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "release.pub.pem").write_bytes(KEY.public.pem)
    (tmp_path / "trusted.toml").write_text('"*" = ["keys/release.pub.pem"]\nscratch = "unsigned"\n')
    assert read_policy(tmp_path / "trusted.toml").mark == SignaturePolicy({"*": (KEY.public,), "scratch": None}).mark


@pytest.mark.parametrize(
    "text", ["team = []", "team = 'signed'", "team = [7]", "Team = 'unsigned'", "team = ['lost.pem']", "team", "\xff"]
)
def test_a_file_that_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trusted.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match="trusted keys"):
        read_policy(tmp_path / "trusted.toml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="trusted keys"):
        read_policy(tmp_path / "absent.toml")
