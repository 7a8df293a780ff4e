"""Who is in the clients' way: aliases and routes move, adapters come and go, combinations are made.

Owns what each does, one thing after the other; each meaning that moves is told to Meanings. One task
alone moves things, so that it is known when everybody has the new meaning. Does not know the clients.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from lorry import RegistryClient, WorkerClient
from lorry.errors import LorryError, NotFound
from tests.load.asking import ROUTES
from tests.load.meanings import Meanings, Selection
from tests.load.record import Record
from tests.load.stock import ALONE, MOVING, PLAIN, RECIPES, alias_of

# Between two actions of one of them: each takes some milliseconds of the worker's loop, a combination more.
_PAUSE_SECONDS = 0.01
_COMBINING_PAUSE_SECONDS = 0.1
# Until everybody has an alias's new meaning: it is loaded behind what all requests need.
_FOLLOWING_SECONDS = 120.0
# Of routes: what they have is in the pool as long as they have it.
_SMALL = ("lora-1", "lora-2", "rslora-2", "bias-2", "attention-3")


class Meddler:
    """All of them. Everything random comes from the seed."""

    def __init__(
        self, registry: RegistryClient, worker: WorkerClient, meanings: Meanings, record: Record, seed: int
    ) -> None:
        self._registry = registry
        self._worker = worker
        self._meanings = meanings
        self._record = record
        self._seed = seed

    async def run(self) -> None:
        """Be in the way until the load is over."""
        async with asyncio.TaskGroup() as group:
            for action in (self._steer, self._shuffle):
                group.create_task(self._repeat(action, _PAUSE_SECONDS))
            group.create_task(self._repeat(self._combine, _COMBINING_PAUSE_SECONDS))

    async def _repeat(self, action: Callable[[random.Random], Awaitable[str]], pause: float) -> None:
        draw = random.Random(f"{self._seed} {action.__name__}")  # noqa: S311 - the same in each run
        while not self._record.over:
            try:
                self._record.actions[await action(draw)] += 1
            except LorryError as error:
                self._record.refuse(error)
            await asyncio.sleep(pause)

    async def _steer(self, draw: random.Random) -> str:
        return await (self._switch(draw) if draw.random() < 0.6 else self._move(draw))

    async def _switch(self, draw: random.Random) -> str:
        route = draw.choice(ROUTES)
        count = 1 if route == "default" else draw.randint(1, 3)
        branches = tuple(_draw_branch(draw) for _ in range(count))
        with self._meanings.routes[route].moving(branches):
            await self._worker.split(
                {f"branch-{place}": (1.0, list(branch)) for place, branch in enumerate(branches)}, route=route
            )
        return "switches"

    async def _move(self, draw: random.Random) -> str:
        name = draw.choice(list(MOVING))
        reference = alias_of(name)
        pointer = self._meanings.aliases[reference]
        versions = [f"{name}@{number}" for number in range(1, len(MOVING[name]) + 1)]
        version = draw.choice([each for each in versions if self._meanings.exact[each] != pointer.now])
        with pointer.moving(self._meanings.exact[version]):
            await self._registry.set_alias(version, reference.partition(":")[2])
            async with asyncio.timeout(_FOLLOWING_SECONDS):
                while not await self._follows(reference, pointer.now):  # noqa: ASYNC110  # the state is the worker's
                    await asyncio.sleep(_PAUSE_SECONDS)
        return "moves"

    async def _follows(self, reference: str, digest: str) -> bool:
        """Whether a new request and all routes have this meaning of an alias."""
        routes = [route async for route in self._worker.routes()]
        served = [one.digest for route in routes for one in route.adapters if one.adapter == reference]
        try:
            async with self._worker.generate("x", adapters=reference, max_new_tokens=1) as messages:
                async for message in messages:
                    served += [one.digest for one in message.started.adapters]
        except LorryError as error:
            self._record.refuse(error)
            return False
        return set(served) == {digest}

    async def _shuffle(self, draw: random.Random) -> str:
        reference = f"{draw.choice([*PLAIN, *ALONE])}@1"
        match draw.randrange(4):
            case 0:
                await self._worker.load(reference, tier=draw.choice(("pool", "host", "disk")))
                return "loads"
            case 1:
                await self._worker.pin(reference)
                await self._worker.unpin(reference)
                return "pins"
            case _:
                await self._worker.unload(reference)
                return "unloads"

    async def _combine(self, draw: random.Random) -> str:
        place = draw.randrange(len(RECIPES))
        recipe = RECIPES[place]
        sources = {f"{name}@1": weight for name, weight in recipe.sources.items()}
        publish = f"mixed-{place}" if draw.random() < 0.2 else ""
        try:
            answer = await self._worker.combine(sources, recipe.method, publish=publish, **recipe.parameters)
        except NotFound:  # its files had to make room on disk before they were loaded
            return "combinations gone"
        for digest in filter(None, (answer.recipe_digest, answer.version.digest)):
            if self._record.recipes.setdefault(digest, recipe) is not recipe:
                self._record.wrong.append(f"{recipe} has the digest of {self._record.recipes[digest]}")
        reference = answer.adapter
        if publish:
            reference = f"{publish}@{answer.version.number}"
            self._meanings.exact[reference] = answer.version.digest
        if reference not in self._meanings.combined:
            self._meanings.combined.append(reference)
        return "combines"


def _draw_branch(draw: random.Random) -> Selection:
    """The base, one or two small adapters, an alias, or one that stands alone."""
    match draw.randrange(6):
        case 0:
            return ()
        case 1:
            return (("dora-2@1", 1.0),)
        case 2 | 3:
            return ((alias_of(draw.choice(list(MOVING))), draw.choice((1.0, 0.5))),)
        case _:
            return tuple((f"{name}@1", draw.choice((1.0, -0.5))) for name in draw.sample(_SMALL, draw.randint(1, 2)))
