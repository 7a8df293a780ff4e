"""The call of AdminService that reads the audit log.

Owns its request and its answer, and that a caller sees what happened where it administers. Does not
know how entries are kept.
"""

from __future__ import annotations

from adapter_registry.domain.acting import Permission, actor
from adapter_registry.domain.principals import AuditQuery, AuditRecord
from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import namespace_of, page_of
from lorry.errors import PermissionDenied
from lorry.rpc.convert import timestamp_from_pb, timestamp_to_pb
from lorry.v1 import admin_pb2 as pb


class AuditCalls(Calls):
    """ListAuditEntries."""

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        """A page of entries, newest first."""
        listing = await self._queries.run(self._catalog.audit_entries, _query_of(request), page_of(request))
        entries = [_answer(entry) for entry in listing.items]
        return pb.ListAuditEntriesResponse(entries=entries, next_page_token=listing.next_token)


def _query_of(request: pb.ListAuditEntriesRequest) -> AuditQuery:
    namespace, administered = namespace_of(request.namespace), actor().rights.where(Permission.ADMIN)
    if administered is not None and not administered:
        raise PermissionDenied("expected the permission admin in some namespace, the caller lacks it")
    return AuditQuery(
        namespaces=administered if namespace is None else frozenset({namespace}),
        principal=request.principal,
        digest=request.digest,
        action=request.action,
        start=timestamp_from_pb(request.start_time) if request.HasField("start_time") else None,
        end=timestamp_from_pb(request.end_time) if request.HasField("end_time") else None,
    )


def _answer(entry: AuditRecord) -> pb.AuditEntry:
    return pb.AuditEntry(
        time=timestamp_to_pb(entry.time),
        principal=entry.principal,
        via=entry.via,
        action=entry.action,
        namespace=entry.namespace,
        name=entry.name,
        digest=entry.digest,
        detail=entry.detail,
        request_id=entry.request_id,
    )
