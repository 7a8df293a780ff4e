"""What a worker still has after a restart, with the registry and without it."""

import json
from pathlib import Path

import pytest

from compute_worker.runtime.api import Tier, Weighted
from lorry.errors import AlreadyRunning, RegistryUnavailable, SignatureRequired
from tests.support.toy_engine import BASE
from tests.support.toy_registry import ToyRegistry
from tests.support.toy_world import call, eventually, running

BY_ROUTE = {"selection": None}


async def test_a_reference_by_digest_needs_no_registry_after_a_restart(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = registry.add("team/one")
    async with running(tmp_path, registry=registry) as world:
        await world.runtime.load("team/one")
    registry.down = True
    async with running(tmp_path, registry=registry) as world:
        request = call("hello", f"team/one@{one.digest}")
        assert (await world.ask(request)).tokens == world.expected(request, (one, 1.0))
        for other in ("team/one", f"other/one@{one.digest}"):
            with pytest.raises(RegistryUnavailable):
                await world.ask(call("hello", other))


@pytest.mark.parametrize("damage", ["cut", "other adapter", "not json", "no manifest"])
async def test_a_manifest_that_is_not_what_it_was_is_not_believed(tmp_path: Path, damage: str) -> None:
    registry = ToyRegistry()
    one, two = registry.add("one"), registry.add("two")
    async with running(tmp_path, registry=registry) as world:
        await world.runtime.load("one")
        await world.runtime.load("two")
    mine, other = (tmp_path / "manifests" / f"{v.digest.removeprefix('sha256:')}.json" for v in (one, two))
    damaged = {
        "cut": mine.read_bytes()[:-9],
        "other adapter": other.read_bytes(),
        "not json": b"\xff",
        "no manifest": json.dumps({"adapters": {}}).encode(),
    }
    mine.write_bytes(damaged[damage])
    registry.down = True
    async with running(tmp_path, registry=registry) as world:
        with pytest.raises(RegistryUnavailable):
            await world.ask(call("hello", f"one@{one.digest}"))
        await world.ask(call("hello", f"two@{two.digest}"))
        assert not mine.exists()


async def test_a_manifest_goes_with_its_bytes(tmp_path: Path) -> None:
    async with running(tmp_path, disk_bytes=8000) as world:
        for name in ("a", "b", "c", "d"):
            world.registry.add(name, rank=6)
            await world.runtime.load(name)
            assert len(list((tmp_path / "manifests").iterdir())) <= 3
        kept = {json.loads(p.read_bytes())["manifest"] for p in (tmp_path / "manifests").iterdir()}
        blobs = {f"sha256:{path.name}" for path in (tmp_path / "blobs").iterdir()}
        files = {file["digest"] for manifest in kept for file in json.loads(manifest)["files"]}
        assert files <= blobs


async def test_routes_come_back_with_their_revisions_and_are_resident_again(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = registry.add("one")
    async with running(tmp_path, registry=registry) as world:
        await world.switch("news", (Weighted("one", 0.5),), None)
        await world.switch("default", (Weighted("one@1"),), None)
        before = world.runtime.routes()
    registry.down = True
    async with running(tmp_path, registry=registry) as world:
        assert world.runtime.routes() == before
        request = call(route="news", **BY_ROUTE)
        assert (await world.ask(request)).tokens == world.expected(request, (one, 0.5))
        await eventually(lambda: world.tiers().get(one.digest) is Tier.POOL)
        await eventually(lambda: not world.runtime._held.routes._restoring)
        assert world.runtime.routes() == before


async def test_a_route_that_was_written_by_name_follows_what_moved_meanwhile(tmp_path: Path) -> None:
    registry = ToyRegistry()
    old = registry.add("one")
    registry.point("one", "prod", old)
    async with running(tmp_path, registry=registry) as world:
        await world.switch("default", (Weighted("one:prod"),), None)
        await world.switch("exact", (Weighted("one@1"),), None)
    new = registry.add("one", rank=4)
    registry.point("one", "prod", new)
    async with running(tmp_path, registry=registry) as world:
        await world.listening()
        await eventually(lambda: world.runtime.route("default").adapters[0].digest == new.digest)
        assert world.runtime.route("default").revision == 3
        assert world.runtime.route("exact").adapters[0].digest == old.digest
        await eventually(lambda: not world.runtime._held.routes._restoring)


async def test_a_route_whose_bytes_are_gone_comes_back_with_the_registry(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = registry.add("one")
    async with running(tmp_path, registry=registry) as world:
        await world.switch("default", (Weighted("one"),), None)
    for path in (tmp_path / "blobs").iterdir():
        path.unlink()
    registry.down = True
    async with running(tmp_path, registry=registry) as world:
        with pytest.raises(RegistryUnavailable):
            await world.ask(call(**BY_ROUTE))
        registry.down = False
        assert (await world.ask(call(**BY_ROUTE))).started.adapters[0].digest == one.digest


async def test_a_switch_is_stronger_than_a_route_that_is_coming_back(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = registry.add("one")
    async with running(tmp_path, registry=registry) as world:
        await world.switch("default", (Weighted("one"),), None)
    for path in (tmp_path / "blobs").iterdir():
        path.unlink()
    gate = registry.hold(one)
    async with running(tmp_path, registry=registry) as world:
        await eventually(lambda: registry.fetched[registry.weights(one).digest] == 2)
        await world.switch("default", (), None)
        gate.set()
        await eventually(lambda: not world.runtime._held.routes._restoring)
        assert (world.runtime.route("default").revision, world.runtime.route("default").adapters) == (3, ())


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"base_id": 1, "history": []}', b"{}", None])
async def test_routes_that_cannot_be_read_are_gone(tmp_path: Path, damage: bytes | None) -> None:
    registry = ToyRegistry()
    async with running(tmp_path, registry=registry) as world:
        await world.switch("news", (), None)
    file = tmp_path / "routes" / "news.json"
    said = json.loads(file.read_bytes())
    assert said["base_id"] == BASE.base_id
    file.write_bytes(json.dumps(said | {"base_id": "another"}).encode() if damage is None else damage)
    async with running(tmp_path, registry=registry) as world:
        assert [state.name for state in world.runtime.routes()] == ["default"]


async def test_a_cache_folder_is_one_workers(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(AlreadyRunning, match="LORRY_WORKER_CACHE_DIR"):
            async with running(tmp_path):
                pass
    async with running(tmp_path):
        pass


class NobodySigned:
    """A signature policy that trusts nobody."""

    mark = "nobody"

    def check(self, adapter: object, digest: str, signatures: object) -> None:
        raise SignatureRequired(f"{adapter}@{digest} {signatures}")


async def test_what_was_kept_is_judged_by_the_signatures_that_are_asked_for_now(tmp_path: Path) -> None:
    registry = ToyRegistry()
    one = registry.add("one")
    async with running(tmp_path, registry=registry) as world:
        await world.runtime.load("one")
    async with running(tmp_path, registry=registry, signatures=NobodySigned()) as world:
        with pytest.raises(SignatureRequired):
            await world.ask(call("hello", f"one@{one.digest}"))
