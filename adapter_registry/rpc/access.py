"""AccessService on the wire: principals in and out.

Owns its requests and answers, and that a secret leaves the registry once. Does not know how a
principal is found behind a call.
"""

from __future__ import annotations

from dataclasses import replace

from adapter_registry.domain.acting import EVERYWHERE, Permission, Rights
from adapter_registry.domain.principals import NewPrincipal, PrincipalRecord
from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import page_of
from adapter_registry.service.access import check_principal, hash_of, new_token
from lorry.errors import InvalidInput
from lorry.format.reference import check_name
from lorry.rpc.convert import timestamp_from_pb, timestamp_to_pb
from lorry.rpc.credentials import is_certificate_name
from lorry.v1 import access_pb2 as pb
from lorry.v1.access_pb2_grpc import AccessServiceServicer


class AccessServicer(Calls, AccessServiceServicer):
    """Answers AccessService."""

    async def CreatePrincipal(self, request: pb.CreatePrincipalRequest, context: Context) -> pb.CreatePrincipalResponse:
        """Make a token, or give scopes to the holder of a certificate."""
        new, token = _new_of(request), ""
        if new.certificate is None:
            token = new_token()
            new = replace(new, secret_hash=hash_of(token))
        made = await self._writes.run(self._catalog.create_principal, new)
        return pb.CreatePrincipalResponse(principal=principal_answer(made), token=token)

    async def ListPrincipals(self, request: pb.ListPrincipalsRequest, context: Context) -> pb.ListPrincipalsResponse:
        """A page of principals, by name."""
        listing = await self._queries.run(self._catalog.list_principals, page_of(request))
        principals = [principal_answer(principal) for principal in listing.items]
        return pb.ListPrincipalsResponse(principals=principals, next_page_token=listing.next_token)

    async def RevokePrincipal(self, request: pb.RevokePrincipalRequest, context: Context) -> pb.RevokePrincipalResponse:
        """Take every right from a principal."""
        name = check_name(request.name, "name of a principal")
        revoked = await self._writes.run(self._catalog.revoke_principal, name)
        return pb.RevokePrincipalResponse(principal=principal_answer(revoked))

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> pb.WhoAmIResponse:
        """Who acts."""
        return pb.WhoAmIResponse(principal=principal_answer(await self._registry.access.me()))


def principal_answer(principal: PrincipalRecord) -> pb.Principal:
    """A principal as a message."""
    moments = {
        "create_time": principal.created,
        "expire_time": principal.expires,
        "revoke_time": principal.revoked,
        "last_seen_time": principal.last_seen,
    }
    return pb.Principal(
        name=principal.name,
        scopes=[
            pb.Scope(namespace=namespace, permission=pb.Permission.ValueType(granted))
            for namespace, granted in sorted(principal.rights.scopes.items())
        ],
        delegate=principal.delegate,
        certificate=principal.certificate or "",
        anonymous=principal.anonymous,
        **{field: timestamp_to_pb(moment) for field, moment in moments.items() if moment is not None},
    )


def _new_of(request: pb.CreatePrincipalRequest) -> NewPrincipal:
    asked = request.principal
    if asked.certificate and not is_certificate_name(asked.certificate):
        raise InvalidInput(
            f"certificate: expected 1 to 200 printable characters of ASCII, got {asked.certificate[:80]!r}"
        )
    scopes: dict[str, Permission] = {}
    for scope in asked.scopes:
        permission = _permission_of(scope)
        scopes[scope.namespace] = max(permission, scopes.get(scope.namespace, permission))
    return check_principal(
        NewPrincipal(
            name=asked.name,
            rights=Rights(scopes),
            delegate=asked.delegate,
            certificate=asked.certificate or None,
            expires=timestamp_from_pb(asked.expire_time) if asked.HasField("expire_time") else None,
        )
    )


def _permission_of(scope: pb.Scope) -> Permission:
    if scope.namespace != EVERYWHERE:
        check_name(scope.namespace, "namespace of a scope")
    try:
        return Permission(scope.permission)
    except ValueError as error:
        words = ", ".join(permission.name for permission in Permission)
        raise InvalidInput(f"permission of a scope: expected one of {words}, got {scope.permission}") from error
