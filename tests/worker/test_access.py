"""A worker that asks the registry who its callers are: every rpc, for each kind of caller, cached adapters too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from compute_worker.rpc.rules import RULES
from compute_worker.runtime import callers
from lorry import WorkerClient
from lorry.errors import LorryError, PermissionDenied, RegistryUnavailable, Unauthenticated
from lorry.format.digest import digest_of
from tests.support.certificates import Authority
from tests.support.pair import Stubs
from tests.support.registry import DEADLINE
from tests.support.tenants import EXPIRED, OPERATOR, OURS, REVOKED, THEIRS, World, guarded_registry
from tests.support.worker import MODEL_NAME, running_worker, tiny_adapter, tiny_base

NOBODY, READER = "nobody", "reader"
SELECTION = {"adapters": [{"adapter": "ours/secret"}]}
ROUTE = "of-ours"
SHORT = {"max_new_tokens": 1}
# What each rpc asks for that is ours'. Those that show lists, or nothing of anybody's, let everybody in.
CASES: dict[str, dict[str, Any]] = {
    "Generate": {"text": "x", "selection": SELECTION, "stop": SHORT},
    "Score": {"items": [{"text": "x", "continuation_text": "y", "selection": SELECTION}]},
    "Switch": {"route": ROUTE, "targets": [{"selection": SELECTION}]},
    "GetRoute": {"route": ROUTE},
    "ListRoutes": {},
    "ListRouteHistory": {"route": ROUTE},
    "RollbackRoute": {"route": ROUTE},
    "DeleteRoute": {"route": ROUTE},
    "Load": {"adapter": "ours/secret"},
    "Unload": {"adapter": "ours/other"},
    "Pin": {"adapter": "ours/secret", "unpin": True},
    "ListResident": {},
    "WatchResidency": {},
    "Combine": {"sources": SELECTION["adapters"], "cat": {}},
    "GetCapabilities": {},
}
LISTS = {"ListRoutes", "ListResident", "WatchResidency", "GetCapabilities"}


@dataclass
class Town:
    """The registry's tenants, and a worker that already holds what is ours."""

    world: World
    worker: str
    registry: AsyncExitStack
    combined: str = ""
    digests: dict[str, str] = field(default_factory=dict)

    def client(self, name: str) -> WorkerClient:
        token = self.world.tokens.get(name)
        return WorkerClient(self.worker, timeout=DEADLINE, **({"token": token} if token else {}))

    async def call(self, name: str, method: str, **fields: Any) -> Any:
        """An rpc by somebody: its answer, or the error's class."""
        token = self.world.tokens.get(name)
        stubs = Stubs(self.worker, **({"token": token} if token else {}))
        try:
            return await stubs.call(method, **fields)
        except LorryError as error:
            return type(error)
        finally:
            await stubs.channel.close()


@pytest.fixture
async def town(tmp_path: Path, model: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(AsyncExitStack())
        world = await registry.enter_async_context(guarded_registry(tmp_path / "registry", Authority(tmp_path / "ca")))
        async with world.client(OPERATOR) as operator:
            await operator.register_base_model(MODEL_NAME, tiny_base())
            delegate = await operator.create_token("worker", {"*": "push"}, delegate=True)
            reader = await operator.create_token(READER, {"ours": "read"})
        tokens = {**world.tokens, READER: reader.token}
        credentials = {"registry_token": delegate.token, "registry_ca": world.root}
        serving = await stack.enter_async_context(
            running_worker(tmp_path / "worker", model, world.target, auth="registry", **credentials)
        )
        town = Town(World(world.target, world.root, tokens), serving.target, registry)
        await furnish(town, tmp_path)
        yield town


async def furnish(town: Town, folder: Path) -> None:
    """Adapters of both tenants in the pool; a route and a combination of ours."""
    for tenant, names in {OURS: ("secret", "other"), THEIRS: ("mine",)}.items():
        async with town.world.client(tenant) as registry, town.client(tenant) as worker:
            for name in names:
                pushed = await registry.push(tiny_adapter(folder / name, seed=sum(name.encode())), f"{tenant}/{name}")
                town.digests[name] = pushed.digest
                await worker.load(f"{tenant}/{name}")
    async with town.client(OURS) as ours:
        await ours.switch("ours/secret", route=ROUTE)
        town.combined = (await ours.combine(["ours/secret", "ours/other"], "cat")).adapter


def test_every_rpc_has_a_case() -> None:
    assert set(CASES) == {method.rpartition("/")[2] for method in RULES}


async def listed(town: Town, name: str) -> tuple[set[str], set[str]]:
    """Names of the adapters and of the routes that somebody is shown."""
    residents = (await town.call(name, "ListResident")).residents
    routes = (await town.call(name, "ListRoutes")).routes
    return {n.partition("@")[0] for r in residents for n in r.names}, {route.name for route in routes}


async def test_every_rpc_answers_its_owner_and_nobody_else(town: Town) -> None:
    for method, fields in CASES.items():
        for stranger in (NOBODY, EXPIRED, REVOKED):
            assert await town.call(stranger, method, **fields) is Unauthenticated, (method, stranger)
        if method not in LISTS:
            assert await town.call(THEIRS, method, **fields) is PermissionDenied, method
        if method != "WatchResidency":
            assert not isinstance(await town.call(OURS, method, **fields), type), method


async def test_lists_show_what_the_caller_may_read_and_no_more(town: Town) -> None:
    assert await listed(town, OURS) == ({"ours/secret", "ours/other", "combined"}, {"default", ROUTE})
    assert await listed(town, THEIRS) == ({"theirs/mine"}, {"default"})
    async with town.client(THEIRS) as theirs, aclosing(theirs.watch()) as changes:
        first = await anext(changes)
        assert first.resident.digest == town.digests["mine"]
        await town.call(OURS, "Pin", adapter="ours/secret")
        await town.call(THEIRS, "Pin", adapter="theirs/mine")
        second = await anext(changes)
        assert (second.resident.digest, second.resident.pinned) == (town.digests["mine"], True)


async def test_a_watch_goes_on_no_longer_than_the_rights_it_began_with(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "_FRESH_SECONDS", 0.0)
    async with town.client(READER) as reader, aclosing(reader.watch()) as changes:
        await anext(changes)
        async with town.world.client(OPERATOR) as operator:
            await operator.revoke_principal(READER)
        await town.call(OURS, "Pin", adapter="ours/secret")
        with pytest.raises(Unauthenticated):
            [change async for change in changes]


async def test_a_route_is_for_those_who_may_read_what_it_serves(town: Town) -> None:
    by_route = {"text": "x", "route": ROUTE, "stop": SHORT}
    assert await town.call(THEIRS, "Generate", **by_route) is PermissionDenied
    assert len(await town.call(READER, "Generate", **by_route)) > 1
    # Nor can it be taken over: what it has counts as well as what it gets.
    mine = [{"selection": {"adapters": [{"adapter": "theirs/mine"}]}}]
    assert await town.call(THEIRS, "Switch", route=ROUTE, targets=mine) is PermissionDenied
    assert await town.call(THEIRS, "Switch", route=ROUTE, targets=[{}]) is PermissionDenied


async def test_one_item_of_somebody_elses_shuts_the_whole_call_out(town: Town) -> None:
    text = {"text": "x", "continuation_text": "y"}
    mine = {**text, "selection": {"adapters": [{"adapter": "theirs/mine"}]}}
    assert len(await town.call(THEIRS, "Score", items=[mine, mine])) == 2
    for other in ({"selection": SELECTION}, {"route": ROUTE}):
        assert await town.call(THEIRS, "Score", items=[mine, {**text, **other}]) is PermissionDenied
        assert len(await town.call(READER, "Score", items=[{**text, **other}])) == 1


async def test_what_a_route_was_is_for_those_who_may_read_what_it_served(town: Town) -> None:
    async with town.client(OPERATOR) as operator:
        for adapter in ("ours/secret", "theirs/mine"):
            await operator.switch(adapter, route="shared")
    history = (await town.call(THEIRS, "ListRouteHistory", route="shared")).revisions
    assert [(r.revision, r.principal) for r in history] == [(2, OPERATOR)]
    assert await town.call(THEIRS, "RollbackRoute", route="shared") is PermissionDenied
    assert await town.call(OURS, "ListRouteHistory", route="shared") is PermissionDenied


async def test_a_session_is_its_callers_and_is_judged_by_what_it_keeps(town: Town) -> None:
    session = {"text": "x", "stop": SHORT, "session": {"id": "talk"}}
    assert len((await town.call(OURS, "Generate", **session, route=ROUTE))[0].started.adapters) == 1
    for name, kept in {OURS: 1, THEIRS: 0, READER: 0}.items():
        (first, *_) = await town.call(name, "Generate", **session)
        assert (len(first.started.adapters), first.started.new_session) == (kept, name != OURS), name
    async with town.client(OPERATOR) as operator:
        await operator.switch("theirs/mine", route=ROUTE)
    # What the route serves now is not for ours; what their session keeps is.
    assert len((await town.call(OURS, "Generate", **session))[0].started.adapters) == 1
    follow = {"session": {"id": "talk", "follow": True}}
    assert await town.call(OURS, "Generate", **session | follow) is PermissionDenied


async def test_reading_is_not_pushing(town: Town) -> None:
    for method in ("Generate", "GetRoute", "ListRouteHistory", "Load", "Combine"):
        assert not isinstance(await town.call(READER, method, **CASES[method]), type), method
    for method in ("Switch", "RollbackRoute", "DeleteRoute", "Unload", "Pin"):
        assert await town.call(READER, method, **CASES[method]) is PermissionDenied, method
    assert await town.call(READER, "Switch", route="new", targets=[{}]) is PermissionDenied
    publish = {"publish": {"adapter": "ours/mix"}}
    assert await town.call(READER, "Combine", **CASES["Combine"], **publish) is PermissionDenied


async def test_a_combination_is_as_good_as_not_there_for_who_may_not_read_its_sources(town: Town) -> None:
    nothing = f"combined@{digest_of(b'nothing')}"
    told = set()
    async with town.client(THEIRS) as theirs:
        for reference in (town.combined, nothing):
            with pytest.raises(PermissionDenied) as refused:
                await theirs.load(reference)
            told.add(refused.value.message)
    assert len(told) == 1
    async with town.client(READER) as reader:
        await reader.generate("x", adapters=town.combined, max_new_tokens=1).text()


async def test_a_combination_is_published_by_its_caller(town: Town) -> None:
    async with town.client(OURS) as ours:
        version = (await ours.combine(["ours/secret", "ours/other"], "cat", publish="ours/mix")).version
    async with town.world.client(OPERATOR) as operator:
        entries = [entry async for entry in operator.audit_entries(digest=version.digest)]
    assert {(entry.principal, entry.via) for entry in entries} == {(OURS, "worker")}


async def test_who_is_known_is_served_while_the_registry_is_away(town: Town) -> None:
    await town.registry.aclose()
    exact = f"ours/secret@{town.digests['secret']}"
    for name, outcome in {THEIRS: PermissionDenied, READER: RegistryUnavailable}.items():
        assert await town.call(name, "Load", adapter=exact) is outcome
    async with town.client(OURS) as ours:
        await ours.generate("x", adapters=exact, max_new_tokens=1).text()
        await ours.generate("x", adapters=None, max_new_tokens=1).text()
