"""What the caller of this moment may do, by namespace.

Owns one context variable, and what it means to reach an adapter that has several homes. The wire sets
it at the beginning of a call; without access control everybody may do everything. Does not know
credentials, nor who vouches for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from lorry.errors import PermissionDenied

# In place of a namespace: all of them, those to come too.
EVERYWHERE = "*"

# The namespaces that something belongs to: one of each set must be open to the caller. A version that
# is published in two namespaces is one set of two; a combination of two versions is two sets.
Homes: TypeAlias = tuple[frozenset[str], ...]


class Permission(IntEnum):
    """What a scope allows; each allows what the smaller ones do."""

    READ = 1
    PUSH = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Rights:
    """The greatest permission by namespace, as a number of Permission; that of `*` holds everywhere.

    holder: whose rights they are, for the log.
    """

    scopes: Mapping[str, int] = field(default_factory=dict)
    holder: str = ""

    def may(self, permission: Permission, namespace: str) -> bool:
        """Whether it is allowed there; namespace `*` asks for everywhere."""
        return max(self.scopes.get(EVERYWHERE, 0), self.scopes.get(namespace, 0)) >= permission

    @property
    def boundless(self) -> bool:
        """Whether nothing that tenants share bounds them: they administer all of it."""
        return self.may(Permission.ADMIN, EVERYWHERE)

    def reach(self, permission: Permission, homes: Homes) -> bool:
        """Whether it is allowed for what has these homes."""
        if self.may(permission, EVERYWHERE):
            return True
        return all(any(self.may(permission, namespace) for namespace in group) for group in homes)

    def require(self, permission: Permission, homes: Homes) -> None:
        """Raise PermissionDenied where it is not allowed, in the same words whether or not anything is there."""
        if not self.reach(permission, homes):
            raise PermissionDenied(f"expected the permission {permission.name.lower()} there, the caller lacks it")

    def require_somewhere(self, permission: Permission) -> None:
        """Raise PermissionDenied where it is allowed in no namespace at all."""
        if not any(granted >= permission for granted in self.scopes.values()):
            raise PermissionDenied(f"expected the permission {permission.name.lower()} in any namespace, got none")


ALL_RIGHTS = Rights({EVERYWHERE: Permission.ADMIN})

_rights: ContextVar[Rights] = ContextVar("rights", default=ALL_RIGHTS)


def rights() -> Rights:
    """What the caller may do; everything for what the worker does of its own accord."""
    return _rights.get()


@contextmanager
def acting(with_rights: Rights) -> Iterator[None]:
    """Everything inside of the block is done by somebody with these rights."""
    token = _rights.set(with_rights)
    try:
        yield
    finally:
        _rights.reset(token)
