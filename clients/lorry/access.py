"""The calls about who may do what, and who did what.

Owns the pythonic spelling of AccessService and of the audit log, and how a scope is written:
`NAMESPACE=PERMISSION`. Answers are the messages of lorry.v1. Does not judge rights; the registry does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Final, Unpack

from lorry.connection import Connection
from lorry.errors import InvalidInput
from lorry.rpc.convert import timestamp_to_pb
from lorry.rpc.credentials import Credentials
from lorry.v1 import access_pb2 as pb
from lorry.v1 import admin_pb2
from lorry.v1.access_pb2_grpc import AccessServiceStub
from lorry.v1.admin_pb2_grpc import AdminServiceStub

# Namespace to `read`, `push` or `admin`; the namespace `*` stands for all.
Scopes = Mapping[str, str]

_PERMISSIONS: Final = {
    "read": pb.PERMISSION_READ,
    "push": pb.PERMISSION_PUSH,
    "admin": pb.PERMISSION_ADMIN,
}


def parse_scope(text: str) -> tuple[str, str]:
    """Namespace and permission of `NAMESPACE=PERMISSION`. Raises InvalidInput."""
    namespace, equals, permission = text.partition("=")
    if not (namespace and equals and permission in _PERMISSIONS):
        words = ", ".join(_PERMISSIONS)
        raise InvalidInput(f"scope: expected NAMESPACE=PERMISSION with one of {words}, got {text[:100]!r}")
    return namespace, permission


class AccessCalls(Connection):
    """AccessService. Every method raises what its rpc documents, as a class of lorry.errors."""

    def __init__(self, address: str, *, timeout: float, **credentials: Unpack[Credentials]) -> None:
        super().__init__(address, timeout=timeout, **credentials)
        self._access = AccessServiceStub(self._channel)
        self._audit = AdminServiceStub(self._channel)

    async def create_token(
        self, name: str, scopes: Scopes, *, delegate: bool = False, expires: datetime | None = None
    ) -> pb.CreatePrincipalResponse:
        """Make a principal with a token, which is in this answer and nowhere else. Raises PrincipalConflict."""
        return await self._call(self._access.CreatePrincipal, _creation(name, scopes, delegate, expires))

    async def grant_certificate(
        self, name: str, certificate: str, scopes: Scopes, *, delegate: bool = False, expires: datetime | None = None
    ) -> pb.Principal:
        """Give scopes to the holder of the client certificate with that common name. Raises PrincipalConflict."""
        request = _creation(name, scopes, delegate, expires)
        request.principal.certificate = certificate
        return (await self._call(self._access.CreatePrincipal, request)).principal

    def principals(self) -> AsyncIterator[pb.Principal]:
        """Principals by name, revoked ones too."""
        return self._listed(self._access.ListPrincipals, pb.ListPrincipalsRequest(), lambda page: page.principals)

    async def revoke_principal(self, name: str) -> pb.Principal:
        """Take every right from a principal, for good. Raises PrincipalNotFound."""
        return (await self._call(self._access.RevokePrincipal, pb.RevokePrincipalRequest(name=name))).principal

    async def whoami(self) -> pb.Principal:
        """Who the registry takes this client for, and what that one may do. Raises Unauthenticated."""
        return (await self._call(self._access.WhoAmI, pb.WhoAmIRequest())).principal

    def audit_entries(
        self,
        *,
        namespace: str = "",
        principal: str = "",
        digest: str = "",
        action: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[admin_pb2.AuditEntry]:
        """Who did what, newest first; every filter that is given must hold. Raises PermissionDenied."""
        request = admin_pb2.ListAuditEntriesRequest(
            namespace=namespace,
            principal=principal,
            digest=digest,
            action=action,
            start_time=None if since is None else timestamp_to_pb(since),
            end_time=None if until is None else timestamp_to_pb(until),
        )
        return self._listed(self._audit.ListAuditEntries, request, lambda page: page.entries)


def _creation(name: str, scopes: Scopes, delegate: bool, expires: datetime | None) -> pb.CreatePrincipalRequest:  # noqa: FBT001 - named by both callers
    principal = pb.Principal(
        name=name,
        scopes=[_scope(namespace, permission) for namespace, permission in scopes.items()],
        delegate=delegate,
        expire_time=None if expires is None else timestamp_to_pb(expires),
    )
    return pb.CreatePrincipalRequest(principal=principal)


def _scope(namespace: str, permission: str) -> pb.Scope:
    parse_scope(f"{namespace}={permission}")
    return pb.Scope(namespace=namespace, permission=_PERMISSIONS[permission])
