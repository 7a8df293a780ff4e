"""A runtime over the toy engine and the toy registry, with what a test needs to talk to it.

`World.check_clean` says whether everything that was taken was given back.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from compute_worker.combination import CombineMethod
from compute_worker.contract import EngineLimits, PublishedAdapter
from compute_worker.runtime.api import (
    CombineCall,
    Combined,
    Delta,
    Finished,
    GenerateCall,
    RouteState,
    RouteTarget,
    Started,
    Stop,
    Weighted,
)
from compute_worker.runtime.runtime import Runtime
from compute_worker.runtime.settings import RuntimeSettings
from lorry.errors import LorryError
from tests.support.toy_engine import LIMITS, Active, ToyEngine, reference
from tests.support.toy_registry import ToyCombiner, ToyRegistry
from tests.support.toy_wording import EOS, ToyTokenizer


@dataclass
class Reply:
    """One answer, collected."""

    started: Started
    text: str
    tokens: list[int]
    finished: Finished


@dataclass
class World:
    engine: ToyEngine
    registry: ToyRegistry
    combiner: ToyCombiner
    runtime: Runtime
    cache_dir: Path

    async def ask(self, call: GenerateCall) -> Reply:
        """Run a request to its end."""
        items = [item async for item in self.runtime.generate(call)]
        deltas = items[1:-1]
        assert isinstance(items[0], Started)
        assert isinstance(items[-1], Finished)
        assert all(isinstance(item, Delta) for item in deltas)
        tokens = [drawn.token for delta in deltas for drawn in delta.drawn]
        return Reply(items[0], "".join(delta.text for delta in deltas), tokens, items[-1])

    async def combine(self, *adapters: str) -> Combined:
        """A combination of some adapters, weight 1 each."""
        sources = tuple(Weighted(adapter) for adapter in adapters)
        return await self.runtime.combine(CombineCall(sources, CombineMethod("cat")))

    async def switch(self, route: str, selection: tuple[Weighted, ...], expected: int | None) -> RouteState:
        """Give a route one branch."""
        return await self.runtime.switch(route, (RouteTarget(selection),), expected)

    def expected(self, call: GenerateCall, *adapters: tuple[PublishedAdapter, float]) -> list[int]:
        """The tokens that the request must get, the end of text left out."""
        active: Active = tuple((self.registry.content(published), weight) for published, weight in adapters)
        prompt = ToyTokenizer().encode(call.text or "") if call.tokens is None else call.tokens
        answer = reference(prompt, active, call.stop.max_new_tokens, call.sampling)
        return [token for token in answer if token != EOS]

    async def listening(self) -> World:
        """Let the registry speak, and wait until the worker hears it."""
        self.registry.silent = False
        await eventually(lambda: self.runtime._held.resolver._names.live)
        return self

    async def settled(self) -> None:
        """Until everything that the registry told has been taken in, and nothing is loaded on its account."""
        following = self.runtime._held._following
        await eventually(lambda: following._token == str(len(self.registry._log)) and not following._moving)

    def tiers(self) -> dict[str, str]:
        """By digest, where each adapter is."""
        return {state.digest: state.tier for state in self.runtime.residents()}

    def budget(self, name: str) -> int:
        """What is used of a budget."""
        return next(use.used for use in self.runtime.budgets() if use.name == name)

    async def check_clean(self) -> None:
        """No request left anything behind, and the engine saw nothing that it must not see."""
        await eventually(lambda: self.budget("kv_tokens") == 0 and self.budget("queue") == 0)
        await eventually(lambda: all(state.leases == 0 for state in self.runtime.residents()))
        for use in self.runtime.budgets():
            assert 0 <= use.used <= use.limit, use
        assert self.engine.violations == []
        await eventually(lambda: not list((self.cache_dir / "tmp").iterdir()))


@asynccontextmanager
async def running(
    cache_dir: Path,
    *,
    registry: ToyRegistry | None = None,
    engine: ToyEngine | None = None,
    limits: EngineLimits = LIMITS,
    **settings: object,
) -> AsyncIterator[World]:
    """A started runtime; at the end it is found clean, closed, and its threads are gone."""
    engine = engine or ToyEngine(limits)
    defaults = {"host_bytes": 1 << 20, "disk_bytes": 1 << 22, "queue": 64, "prefill_tokens": 16, "max_batch": 16}
    chosen = {**defaults, "default_wait": 5.0, "tool": "lorry test", "base_name": "toy", "holder": "toy", **settings}
    registry, combiner = registry or ToyRegistry(), ToyCombiner()
    runtime = Runtime(engine, ToyTokenizer(), registry, combiner, RuntimeSettings(cache_dir, **chosen))
    before = set(threading.enumerate())
    try:
        await runtime.start()
    except LorryError:
        await runtime.close()
        raise
    world = World(engine, registry, combiner, runtime, cache_dir)
    try:
        yield world
        await world.check_clean()
    finally:
        engine.running.set()
        engine.installing.set()
        await runtime.close()
    assert [t.name for t in set(threading.enumerate()) - before if t.name.startswith("lorry-")] == []


def call(
    prompt: str | Sequence[int] = "hello", *adapters: str | Weighted, max_new: int = 12, **fields: object
) -> GenerateCall:
    """A request for adapters by reference; none: the base."""
    selection = tuple(Weighted(adapter) if isinstance(adapter, str) else adapter for adapter in adapters)
    given = {"text": prompt} if isinstance(prompt, str) else {"tokens": tuple(prompt)}
    return GenerateCall(**{"selection": selection, "stop": Stop(max_new_tokens=max_new), **given, **fields})


def prompt_without_eos(new: int) -> str:
    """A prompt whose answer has no end-of-text among its first `new` tokens."""
    return next(text for n in range(1000) if EOS not in reference((text := f"prompt {n}").encode(), (), new))


async def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until it holds. The limit is a bound for a hung test, not a claim about speed."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "it never came to hold"
        await asyncio.sleep(0.002)
