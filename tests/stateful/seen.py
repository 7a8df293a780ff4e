"""The registry's answers as the model's rows.

Owns which fields of a message are compared; moments are not, since the model has no clock.
"""

from __future__ import annotations

from typing import Any

from lorry.rpc.convert import carry_over_from_pb
from lorry.v1 import admin_pb2, catalog_pb2, types_pb2

Row = tuple[Any, ...]


def base(message: types_pb2.BaseModel) -> Row:
    policy = str(carry_over_from_pb(message.carry_over))
    return (message.name, message.base_id, tuple(sorted(message.known_as)), message.derived_from, policy)


def adapter(message: types_pb2.Adapter) -> Row:
    newest = (message.latest_number, message.latest_digest, message.rank, message.base_id)
    told = (message.description, sorted(message.labels.items()), message.revision, message.keep_last)
    aliases = sorted(message.aliases.items())
    return (message.namespace, message.name, message.version_count, *newest, aliases, *told)


def version(message: types_pb2.Version) -> Row:
    manifest = message.manifest
    reason = message.yank_reason if message.HasField("yank_reason") else None
    warnings = tuple(warning.partition(":")[0] for warning in message.warnings)
    hidden = (reason, tuple(message.aliases), warnings)
    facts = (message.size_bytes, manifest.base_id, manifest.rank, tuple(manifest.parents))
    return (message.namespace, message.name, message.number, message.digest, *hidden, *facts)


def alias(message: types_pb2.Alias) -> Row:
    return (message.alias, message.digest, message.number, message.revision)


def lease(message: catalog_pb2.Lease) -> Row:
    return (message.holder, message.digest, message.number)


def namespace(message: admin_pb2.Namespace) -> Row:
    limits = (message.max_bytes, message.max_versions, message.revision)
    return (
        message.name,
        *limits,
        message.used_bytes,
        message.uploading_bytes,
        message.used_versions,
        message.adapter_count,
    )


def verdict(message: catalog_pb2.Verdict | catalog_pb2.CheckCompatibilityResponse) -> Row:
    return (message.compatible, tuple(finding.code for finding in message.findings))


def event(message: catalog_pb2.WatchResponse) -> Row:
    kind = message.WhichOneof("event") or ""
    fields = {
        "alias_moved": ("alias", "digest", "revision"),
        "alias_deleted": ("alias",),
        "base_registered": ("base_id",),
        "base_updated": ("base_id",),
        "version_created": ("digest", "number"),
        "version_yanked": ("digest", "reason"),
        "version_deleted": ("digest",),
    }
    what = getattr(message, kind)
    return (kind, message.namespace, message.name, *(getattr(what, field) for field in fields[kind]))


def lineage(message: catalog_pb2.GetLineageResponse) -> Row:
    nodes = {node.digest: (tuple(node.published_as), node.base_id) for node in message.nodes}
    edges = {(edge.child, edge.parent) for edge in message.edges}
    assert (len(nodes), len(edges)) == (len(message.nodes), len(message.edges)), "told twice"
    return (message.nodes[0].digest, nodes, edges, message.truncated)


def collection(message: admin_pb2.CollectGarbageResponse) -> Row:
    assert (message.swept_uploads, message.forgotten_rows) == (0, 0), "nothing here is as old as that"
    expired = (list(message.expired_versions), message.expired_version_count)
    return (*expired, message.swept_blobs, message.swept_bytes, message.kept_blobs, message.kept_bytes)


def entries(page: Any) -> list[Any]:
    """What a page of any list lists."""
    (field,) = (name for name in page.DESCRIPTOR.fields_by_name if name != "next_page_token")
    return list(getattr(page, field))


def row(message: Any) -> Row:
    """Any entry of a list."""
    tell = {
        types_pb2.Adapter: adapter,
        types_pb2.Version: version,
        types_pb2.Alias: alias,
        types_pb2.BaseModel: base,
        catalog_pb2.Lease: lease,
    }
    return tell[type(message)](message)


def page(message: Any) -> list[Row]:
    """The rows of a page of any list."""
    return [row(entry) for entry in entries(message)]


def problem(message: admin_pb2.FsckFinding) -> str:
    """What a check found, in one word."""
    return admin_pb2.FsckProblem.Name(message.problem).removeprefix("FSCK_PROBLEM_")
