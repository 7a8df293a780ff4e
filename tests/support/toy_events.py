"""What a registry tells of its own accord, and takes as heartbeats: the other half of the toy registry.

Owns the log of events with its tokens, its listeners, and the leases. Knows versions only by asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from compute_worker.contract import CatalogEvent, Change, PublishedAdapter, Renewed
from lorry.errors import RegistryUnavailable, ResumeTokenExpired
from lorry.format.reference import AdapterName, Reference, parse_reference


class ToyEvents:
    """silent: nobody can listen, as before a worker has found its registry; calls are answered all the same."""

    def __init__(self) -> None:
        self.silent = True
        self.forgotten = 0  # events that are not kept any more
        self.leases: dict[str, list[str]] = {}
        self.renewals = 0
        self.listens = 0
        self._down = False
        self._log: list[CatalogEvent] = []
        self._news = asyncio.Event()
        self.telling = asyncio.Event()  # cleared: what happens is told later
        self.telling.set()

    @property
    def down(self) -> bool:
        """Whether nothing is answered."""
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        self._down = down
        self._wake()

    def tell(
        self, change: str, adapter: AdapterName | str = "", digest: str = "", *, alias: str = "", reason: str = ""
    ) -> None:
        token = str(len(self._log) + 1)
        self._log.append(CatalogEvent(token, Change[change], str(adapter), digest, alias, reason))
        self._wake()

    def hang_up(self) -> None:
        """Every stream breaks; it can be taken up again."""
        self.listens += 1
        self._wake()

    def check_up(self) -> None:
        if self._down:
            raise RegistryUnavailable("the registry does not answer")

    async def listen(self, token: str) -> AsyncGenerator[CatalogEvent, None]:
        self.check_up()
        if self.silent:
            raise RegistryUnavailable("the registry says nothing")
        at = int(token) if token else len(self._log)
        if at < self.forgotten:
            raise ResumeTokenExpired(f"events behind {token} are gone")
        return self._stream(at)

    async def _stream(self, at: int) -> AsyncGenerator[CatalogEvent, None]:
        begun = self.listens
        while True:
            await self.telling.wait()
            self.check_up()
            if self.silent or self.listens != begun:
                raise RegistryUnavailable("the stream broke")
            if at < len(self._log):
                at += 1
                yield self._log[at - 1]
            else:
                await self._news.wait()

    async def renew(self, holder: str, adapters: Sequence[str], seconds: float) -> Renewed:
        assert seconds > 0
        await asyncio.sleep(0)
        self.check_up()
        self.renewals += 1
        self.leases[holder] = list(adapters)
        found = {reference: self.known(parse_reference(reference)) for reference in adapters}
        missing = tuple(reference for reference, version in found.items() if version is None)
        yanked = tuple(reference for reference, version in found.items() if version and version.yank_reason is not None)
        return Renewed(missing, yanked)

    def known(self, exact: Reference) -> PublishedAdapter | None:
        """The version of an exact reference."""
        raise NotImplementedError

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
