"""Who may do what on this worker: asked of the registry once in a while, remembered for as long as it holds.

Owns the memory of answers, under the hash of what the caller showed, and how long each may be used:
fresh without asking, older only while the registry cannot be asked, never beyond its own end. Does
not know the wire, nor what a call needs.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from compute_worker.runtime.rights import Rights
from compute_worker.runtime.waiting import SingleFlight
from lorry.errors import LorryError, Unauthenticated, Unavailable

# A right that was taken away holds no longer than this while the registry can be asked.
_FRESH_SECONDS = 30.0
# Callers of a worker; an answer is some hundred bytes.
_MAX_CALLERS = 4096


@dataclass(frozen=True, slots=True)
class Granted:
    """What a caller may do until `expires`: 1 read, 2 push, 3 admin, by namespace (`*`: all).

    anonymous: everybody may, the registry has not looked at who it is. principal: its name, for the log.
    """

    scopes: Mapping[str, int]
    expires: datetime | None = None
    anonymous: bool = False
    principal: str = ""


class Authority(Protocol):
    """Who vouches for the worker's callers."""

    async def granted(self, caller: str) -> Granted:
        """What a caller may do; `caller` as lorry.rpc.credentials.caller_of spells it.

        Raises Unauthenticated, PermissionDenied (this worker may not act for others), RegistryUnavailable.
        """


@dataclass(frozen=True, slots=True)
class _Answer:
    """moment: when the registry was asked, on time.monotonic()'s clock."""

    granted: Granted
    moment: float


class Callers:
    """Belongs to the event loop. grace: seconds that an answer is used while the registry is away."""

    def __init__(self, authority: Authority, grace: float) -> None:
        self._authority = authority
        self._grace = grace
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._flight: SingleFlight[_Answer] = SingleFlight()

    async def rights(self, caller: str) -> Rights:
        """What the caller may do; `caller` as lorry.rpc.credentials.caller_of spells it.

        Raises Unauthenticated, PermissionDenied (this worker may not act for others), and
        RegistryUnavailable where a caller is not known, or has not been for too long.
        """
        if not caller:
            raise Unauthenticated("expected a token or a client certificate, got neither")
        key = hashlib.sha256(caller.encode()).hexdigest()
        answer = self._answers.get(key)
        if answer is None or time.monotonic() - answer.moment > _FRESH_SECONDS:
            answer = await self._ask(key, caller, answer)
        expires = answer.granted.expires
        if expires is not None and expires <= datetime.now(UTC):
            raise Unauthenticated("the caller's rights have ended")
        return Rights(answer.granted.scopes, answer.granted.principal)

    async def close(self) -> None:
        """Ask no more."""
        await self._flight.close()

    async def _ask(self, key: str, caller: str, before: _Answer | None) -> _Answer:
        try:
            answer = await self._flight.run(key, lambda: self._answer(caller))
        except Unavailable:
            if before is None or time.monotonic() - before.moment > self._grace:
                raise
            return before
        except LorryError:
            self._answers.pop(key, None)
            raise
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > _MAX_CALLERS:
            self._answers.popitem(last=False)
        return answer

    async def _answer(self, caller: str) -> _Answer:
        moment = time.monotonic()
        granted = await self._authority.granted(caller)
        if granted.anonymous:
            raise Unauthenticated("the registry has no access control, so it vouches for nobody")
        return _Answer(granted, moment)
