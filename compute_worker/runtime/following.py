"""The worker keeps up with the registry: its events, one by one and in order, into memory and routes.

Owns the stream and its resumption, and what each event means here: a name that moved is loaded first
and answered then, behind what requests need; what was yanked or deleted is withdrawn at once. While
the stream is not there nothing is answered from memory. Does not know the wire, nor how an adapter is
loaded.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from weakref import WeakValueDictionary

from compute_worker.contract import AdapterSource, CatalogEvent, Change
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.known import Known
from compute_worker.runtime.names import Names, Withdrawn
from compute_worker.runtime.routes import Routes
from compute_worker.runtime.selection import Resolver
from compute_worker.runtime.version import Choice, Version
from lorry.errors import InvalidResumeToken, LorryError, ResumeTokenExpired
from lorry.format.reference import Reference, parse_adapter_name

_log = logging.getLogger(__name__)

# Between two tries to hear the registry: the first at once, the longest as the channel's own.
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_MOST_DOUBLINGS = 8
# Names that are asked about at a time, and names of one namespace that are loaded: requests come first, and nobody
# waits for what another tenant's names mean now.
_ASKED_AT_ONCE = 4
_LOADED_AT_ONCE = 2


class Following:
    """Belongs to the event loop. patience: seconds that a name which moved is loaded before it is answered.

    `heard` is called whenever the registry is heard again, `families_changed` when a base has another parent or
    policy, or may have.
    """

    def __init__(  # noqa: PLR0913 - the parts that an event reaches
        self,
        source: AdapterSource,
        resolver: Resolver,
        known: Known,
        names: Names,
        withdrawn: Withdrawn,
        routes: Routes,
        *,
        cache: AdapterCache,
        patience: float,
    ) -> None:
        self.heard: Callable[[], None] = lambda: None
        self.families_changed: Callable[[], None] = lambda: None
        self._source = source
        self._resolver = resolver
        self._known = known
        self._names = names
        self._withdrawn = withdrawn
        self._routes = routes
        self._cache = cache
        self._patience = patience
        self._token = ""
        self._asking = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._moving: dict[Reference, bool] = {}  # names at work; True: they moved again meanwhile
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen from now on."""
        self._routes.switched = self._after_switch
        self._begin(self._listen())

    async def close(self) -> None:
        """Listen no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def withdraw(self, exact: Reference, yank_reason: str | None) -> None:
        """A version was yanked, with this reason, or deleted (None): nothing new gets it by name, or at all."""
        bare, digest = Reference(exact.adapter), exact.digest or ""
        followed = self._followed(bare)
        self._names.overtake(exact.adapter)
        self._names.forget_version(exact.adapter, digest)
        if yank_reason is None:
            self._delete(exact, digest)
        else:
            self._withdrawn.yank(exact, yank_reason)
        if followed:
            self._move(bare)

    def _delete(self, exact: Reference, digest: str) -> None:
        self._withdrawn.delete(exact)
        self._routes.release(exact.adapter, digest)
        version = self._known.forget(exact) or self._cache.held(digest)
        if version is not None:
            self._begin(self._cache.retire(exact.adapter, version))

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with aclosing(await self._source.listen(self._token)) as events:
                    failures = 0
                    self._hear()
                    async for event in events:
                        self._take(event)
                        self._token = event.token
            except (ResumeTokenExpired, InvalidResumeToken) as error:
                _log.warning("events of the registry were missed, beginning again from now: %s", error)
                self._token = ""
            except LorryError as error:
                _log.log(logging.DEBUG if failures else logging.WARNING, "the registry is not heard: %s", error)
            finally:
                self._names.fall_silent()
            pause = min(_FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS)
            failures = min(failures + 1, _MOST_DOUBLINGS)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads the workers of a registry that is back

    def _hear(self) -> None:
        """Whatever was followed may have moved while nothing was heard."""
        if not self._token:  # from now on: events before were missed
            self.families_changed()
        for reference in {*self._names.hear(), *self._routes.followed()}:
            self._move(reference)
        self.heard()

    def _take(self, event: CatalogEvent) -> None:
        if event.change is Change.BASE_UPDATED:
            self.families_changed()
        elif event.change is not None:
            self._take_adapter(event)

    def _take_adapter(self, event: CatalogEvent) -> None:
        adapter = parse_adapter_name(event.adapter)
        self._names.overtake(adapter)
        exact = Reference(adapter, digest=event.digest)
        match event.change:
            case Change.CREATED:
                self._withdrawn.learn(exact, None)
                self._move_followed(Reference(adapter))
            case Change.ALIAS_MOVED:
                self._move_followed(Reference(adapter, alias=event.alias))
            case Change.ALIAS_DELETED:
                gone = Reference(adapter, alias=event.alias)
                self._names.forget(gone)
                if gone in self._moving:
                    self._move(gone)
            case Change.YANKED:
                self.withdraw(exact, event.reason)
            case Change.DELETED:
                self.withdraw(exact, None)

    def _followed(self, reference: Reference) -> bool:
        return reference in self._names or reference in self._routes.followed()

    def _move_followed(self, reference: Reference) -> None:
        if self._followed(reference):
            self._move(reference)

    def _after_switch(self, name: str) -> None:
        """What a route was written with may have moved before the route was there to be followed."""
        for reference, digest in self._routes.followed(name).items():
            now = self._names.get(reference)
            if self._names.live and (now is None or now.digest != digest):
                self._move(reference)

    def _move(self, reference: Reference) -> None:
        """Find out what a name means now; in the background, once at a time for each name."""
        if reference in self._moving:
            self._moving[reference] = True
        else:
            self._moving[reference] = False
            self._begin(self._adopt(reference))

    async def _adopt(self, reference: Reference) -> None:
        try:
            done = False
            while not done or self._moving[reference]:
                self._moving[reference] = False
                async with self._turn(reference.adapter.namespace):
                    done = await self._adopt_once(reference) or not self._followed(reference)
                if not done:
                    await asyncio.sleep(_LONGEST_PAUSE_SECONDS)
        finally:
            del self._moving[reference]

    def _turn(self, namespace: str) -> asyncio.Semaphore:
        turn = self._turns.get(namespace)
        if turn is None:
            turn = self._turns[namespace] = asyncio.Semaphore(_LOADED_AT_ONCE)
        return turn

    async def _adopt_once(self, reference: Reference) -> bool:
        """Move memory and routes to what a name means; False where that is worth another try."""
        spell = self._names.spell
        try:
            async with self._asking:
                version = await self._resolver.ask(reference)
        except LorryError as error:
            _log.warning("%s moved, each request asks for it: %s", reference, error)
            self._names.forget(reference)
            return not error.retryable
        await self._preload(reference, version)
        if self._moving[reference]:  # again, while that was loaded
            return True
        if Reference(reference.adapter, digest=version.digest) not in self._withdrawn:
            self._names.remember(reference, version, spell)
        return await self._routes.follow(reference, version)

    async def _preload(self, reference: Reference, version: Version) -> None:
        """Have the new version where the old one was; where that fails, requests are told why."""
        before = self._names.last(reference)
        if before is None or before.digest == version.digest or not self._cache.pooled(before.digest):
            return
        try:
            choice = Choice(str(reference), version)
            lease = await self._cache.acquire([choice], time.monotonic() + self._patience, patient=True)
        except LorryError as error:
            _log.warning("%s means %s now, which could not be loaded: %s", reference, version.digest, error)
        else:
            lease.release()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("following the registry failed", exc_info=error)
