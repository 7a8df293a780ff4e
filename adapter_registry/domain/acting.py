"""Who acts and what they may do: the principal behind the work of this moment.

Owns one context variable. The wire sets it at the beginning of a call; Pool.run takes it along into
its threads; the service decides by its rights, the store writes it into the audit log. Does not
know tokens, certificates or calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum

from lorry.errors import PermissionDenied

# In place of a namespace: all of them, those to come too.
EVERYWHERE = "*"


class Permission(IntEnum):
    """What a scope allows; each allows what the smaller ones do."""

    READ = 1
    PUSH = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Rights:
    """The greatest permission by namespace; that of `*` holds in every namespace."""

    scopes: dict[str, Permission] = field(default_factory=dict)

    def may(self, permission: Permission, namespace: str) -> bool:
        """Whether it is allowed there; namespace `*` asks for everywhere."""
        return self._granted(namespace) >= permission

    def where(self, permission: Permission) -> frozenset[str] | None:
        """The namespaces where it is allowed; None means everywhere."""
        if self.may(permission, EVERYWHERE):
            return None
        return frozenset(name for name, granted in self.scopes.items() if granted >= permission)

    def both(self, other: Rights) -> Rights:
        """What both allow."""
        scopes: dict[str, Permission] = {}
        for namespace in {*self.scopes, *other.scopes}:
            granted = min(self._granted(namespace), other._granted(namespace))
            if granted:
                scopes[namespace] = Permission(granted)
        return Rights(scopes)

    def _granted(self, namespace: str) -> int:
        return max(self.scopes.get(EVERYWHERE, 0), self.scopes.get(namespace, 0))

    def require(self, permission: Permission, namespace: str) -> None:
        """Raise PermissionDenied where it is not allowed, in the same words whether or not anything is there."""
        if not self.may(permission, namespace):
            place = "all namespaces" if namespace == EVERYWHERE else f"namespace {namespace!r}"
            raise PermissionDenied(f"expected the permission {permission.name.lower()} in {place}, the caller lacks it")


ALL_RIGHTS = Rights({EVERYWHERE: Permission.ADMIN})


@dataclass(frozen=True, slots=True)
class Actor:
    """principal: its name; via: the worker that acts for it; action: the rpc's name."""

    principal: str
    rights: Rights = ALL_RIGHTS
    action: str = ""
    via: str = ""
    request_id: str = ""


# What the registry does of its own accord: sweeping, pruning, computing verdicts.
REGISTRY = Actor("registry")

_actor: ContextVar[Actor] = ContextVar("actor", default=REGISTRY)


def actor() -> Actor:
    """Who acts now."""
    return _actor.get()


def act_as(who: Actor) -> None:
    """Everything from here to the end of the task is done by `who`: for a call, which is a task of its own."""
    _actor.set(who)


@contextmanager
def acting(who: Actor) -> Iterator[None]:
    """Everything inside the block is done by `who`."""
    token = _actor.set(who)
    try:
        yield
    finally:
        _actor.reset(token)
