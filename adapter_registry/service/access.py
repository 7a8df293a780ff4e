"""Who calls, and what that one may do.

Owns the way from what a caller shows to the Actor behind its call: tokens are known by their hash,
certificates by their name, and a worker that acts for somebody may do what both may do. Looks a
principal up once a second at most, so that taking its rights works within a second. Does not know
the wire, nor which right a call needs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

from adapter_registry.domain.acting import ALL_RIGHTS, Actor, actor
from adapter_registry.domain.principals import NewPrincipal, PrincipalRecord, PrincipalStore
from adapter_registry.service.pool import Pools
from lorry.errors import InvalidInput, InvalidName, LorryError, PermissionDenied, Unauthenticated
from lorry.format.reference import check_name

_log = logging.getLogger(__name__)

# Promised by the contract: who lost its rights has none a second later.
_REMEMBER_SECONDS = 1.0
_SEEN_EVERY = timedelta(minutes=1)
# 256 bits: nobody guesses one, so a plain hash is enough at rest.
_TOKEN_BYTES = 32
_TOKEN_PREFIX = "lorry_"  # noqa: S105 - the part of every token that is no secret, for scanners of source code
ANONYMOUS: Final = "anonymous"
# Names that the audit log gives to somebody else.
_RESERVED = frozenset({ANONYMOUS, "registry"})
_MAX_SCOPES = 1_000
_REFUSED = "expected credentials that are known, not expired and not revoked, got others"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a caller shows: a token, the name in its verified certificate, and the same of whom it acts
    for. '' where there is none; a token goes before a certificate.
    """

    token: str = ""
    certificate: str = ""
    for_token: str = ""
    for_certificate: str = ""


def hash_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    """A secret that nobody had before."""
    return _TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def check_principal(new: NewPrincipal) -> NewPrincipal:
    """Raises InvalidName, InvalidInput."""
    check_name(new.name, "name of a principal")
    if new.name in _RESERVED:
        raise InvalidName(f"name of a principal: expected another than {new.name!r}, which the audit log uses")
    if not 1 <= len(new.rights.scopes) <= _MAX_SCOPES:
        raise InvalidInput(f"scopes: expected 1 to {_MAX_SCOPES}, got {len(new.rights.scopes)}")
    if new.expires is not None and new.expires <= datetime.now(UTC):
        raise InvalidInput(f"expire_time: expected a moment to come, got {new.expires.isoformat()}")
    return new


class Access:
    """Principals of a registry; `required` False lets everybody do everything."""

    def __init__(self, store: PrincipalStore, pools: Pools, *, required: bool) -> None:
        self._store = store
        self._queries, self._writes = pools.queries, pools.writes
        self._required = required
        self._known: dict[tuple[str, str], tuple[float, PrincipalRecord]] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def admit(self, shown: Shown, *, action: str, request_id: str) -> Actor:
        """Who is behind a call. Raises Unauthenticated, PermissionDenied, StorageUnavailable."""
        if not self._required:
            return Actor(ANONYMOUS, ALL_RIGHTS, action=action, request_id=request_id)
        caller = await self._identify(shown.token, shown.certificate)
        if not (shown.for_token or shown.for_certificate):
            return Actor(caller.name, caller.rights, action=action, request_id=request_id)
        if not caller.delegate:
            raise PermissionDenied("expected a call in the caller's own name: it may not act for others")
        person = await self._identify(shown.for_token, shown.for_certificate)
        rights = person.rights.both(caller.rights)
        return Actor(person.name, rights, action=action, via=caller.name, request_id=request_id)

    async def me(self) -> PrincipalRecord:
        """Who acts now, with its own rights. Raises Unauthenticated where it was taken away meanwhile."""
        name = actor().principal
        if name == ANONYMOUS:
            return PrincipalRecord(ANONYMOUS, ALL_RIGHTS, False, None, None, None, None, None, anonymous=True)
        return _active(await self._queries.run(self._store.principal, name))

    async def _identify(self, token: str, certificate: str) -> PrincipalRecord:
        if token:
            return await self._remembered("secret", hash_of(token), self._store.principal_of_secret)
        if certificate:
            return await self._remembered("certificate", certificate, self._store.principal_of_certificate)
        raise Unauthenticated("expected a token or a client certificate, got neither")

    async def _remembered(
        self, kind: str, value: str, find: Callable[[str], PrincipalRecord | None]
    ) -> PrincipalRecord:
        since, known = self._known.get((kind, value), (0.0, None))
        if known is None or monotonic() - since >= _REMEMBER_SECONDS:
            since = monotonic()  # before the look-up: what it finds may be old by as much as it takes
            known = _active(await self._queries.run(find, value))
            # Only what exists is remembered, so that made-up tokens fill no memory.
            self._known[kind, value] = since, known
            self._note_seen(known)
        return _active(known)

    def _note_seen(self, principal: PrincipalRecord) -> None:
        now = datetime.now(UTC)
        # One at a time: a note waits for the turn to write. Who is passed over is noted the next time.
        if not self._writing and (principal.last_seen is None or now - principal.last_seen >= _SEEN_EVERY):
            task = asyncio.create_task(self._saw(principal.name, now.replace(second=0, microsecond=0)))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _saw(self, name: str, moment: datetime) -> None:
        try:
            await self._writes.run(self._store.saw_principal, name, moment)
        except LorryError as error:
            _log.warning("could not note when %s was last seen: %s", name, error.message)


def _active(principal: PrincipalRecord | None) -> PrincipalRecord:
    # The same words whatever is wrong: whether there was such a token is nobody's business.
    if principal is None or not principal.active(datetime.now(UTC)):
        raise Unauthenticated(_REFUSED)
    return principal
