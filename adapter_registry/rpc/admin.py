"""AdminService on the wire: its parts put together, and the calls that keep the registry in order.

Owns their requests and answers. Does not know what garbage is, or how bytes are checked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from adapter_registry.domain.garbage import CheckProgress, Collection, Finding, Problem
from adapter_registry.rpc.audit import AuditCalls
from adapter_registry.rpc.calls import Context
from adapter_registry.rpc.namespaces import NamespaceCalls
from adapter_registry.service.fsck import Report
from lorry.rpc.convert import span_from_pb
from lorry.v1 import admin_pb2 as pb
from lorry.v1.admin_pb2_grpc import AdminServiceServicer

_PROBLEMS = {
    Problem.CORRUPT: pb.FSCK_PROBLEM_CORRUPT,
    Problem.MISSING: pb.FSCK_PROBLEM_MISSING,
    Problem.QUARANTINED: pb.FSCK_PROBLEM_QUARANTINED,
    Problem.MANIFEST: pb.FSCK_PROBLEM_MANIFEST,
}


class AdminServicer(NamespaceCalls, AuditCalls, AdminServiceServicer):
    """Answers AdminService."""

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        """Sweep what nobody names."""
        grace = span_from_pb(request.grace) if request.HasField("grace") else None
        return _collection(await self._registry.collector.collect(dry_run=request.dry_run, grace=grace))

    async def Fsck(self, request: pb.FsckRequest, context: Context) -> AsyncIterator[pb.FsckResponse]:
        """Findings and progress, as they come."""
        async with aclosing(self._registry.checker.check()) as reports:
            async for report in reports:
                yield _report(report)


def _collection(done: Collection) -> pb.CollectGarbageResponse:
    return pb.CollectGarbageResponse(
        expired_versions=done.expired,
        expired_version_count=done.expired_count,
        swept_blobs=done.swept_blobs,
        swept_bytes=done.swept_bytes,
        kept_blobs=done.kept_blobs,
        kept_bytes=done.kept_bytes,
        swept_uploads=done.swept_uploads,
        forgotten_rows=done.forgotten_rows,
        discarded_blobs=done.discarded_blobs,
        discarded_bytes=done.discarded_bytes,
    )


def _report(report: Report) -> pb.FsckResponse:
    match report:
        case Finding(problem, digest, versions, message):
            kind = _PROBLEMS[problem]
            return pb.FsckResponse(
                finding=pb.FsckFinding(problem=kind, digest=digest, versions=versions, message=message)
            )
        case CheckProgress(blobs, size, total, done):
            return pb.FsckResponse(
                progress=pb.FsckProgress(checked_blobs=blobs, checked_bytes=size, total_blobs=total, done=done)
            )
