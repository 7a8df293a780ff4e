"""The catalogue's records as messages.

Owns the fields of every answer. Does not know requests.
"""

from __future__ import annotations

from itertools import accumulate

from adapter_registry.domain.records import (
    AdapterRecord,
    AliasRecord,
    BaseRecord,
    Event,
    EventKind,
    LeaseRecord,
    Lineage,
    LineageNode,
    VersionRecord,
)
from lorry.rpc.convert import base_to_pb, manifest_to_pb, recipe_to_pb, timestamp_to_pb, variant_to_pb
from lorry.v1 import catalog_pb2, types_pb2


def base_answer(base: BaseRecord, *, modules: bool = True) -> types_pb2.BaseModel:
    """A base, with its module table or without."""
    message = base_to_pb(base.facts, base.name, base.known_as, base.derived_from or "", base.carry_over)
    if base.created is not None:
        message.create_time.CopyFrom(timestamp_to_pb(base.created))
    if not modules:
        message.ClearField("modules")
    return message


def version_answer(version: VersionRecord) -> types_pb2.Version:
    """A version as read under its adapter."""
    return types_pb2.Version(
        digest=version.digest,
        namespace=version.namespace,
        name=version.name,
        number=version.number,
        manifest=manifest_to_pb(version.manifest),
        create_time=timestamp_to_pb(version.created),
        yank_reason=version.yank_reason,
        aliases=version.aliases,
        size_bytes=version.manifest.size,
        warnings=version.warnings,
        signatures=version.signatures,
    )


def adapter_answer(adapter: AdapterRecord) -> types_pb2.Adapter:
    """An adapter with the facts of its newest version."""
    message = types_pb2.Adapter(
        namespace=adapter.namespace,
        name=adapter.name,
        description=adapter.description,
        labels=adapter.labels,
        create_time=timestamp_to_pb(adapter.created),
        version_count=adapter.version_count,
        revision=adapter.revision,
        aliases=adapter.aliases,
        keep_last=adapter.keep_last,
    )
    if adapter.latest is not None:
        _describe(message, adapter.latest)
    return message


def _describe(message: types_pb2.Adapter, latest: VersionRecord) -> None:
    message.latest_number = latest.number
    message.latest_digest = latest.digest
    message.variant = variant_to_pb(latest.manifest.variant)
    message.rank = latest.manifest.rank
    message.base_id = latest.manifest.base_id
    message.size_bytes = latest.manifest.size


def alias_answer(alias: AliasRecord) -> types_pb2.Alias:
    """An alias, or one move of it."""
    return types_pb2.Alias(
        alias=alias.alias,
        digest=alias.digest or "",
        number=alias.number,
        revision=alias.revision,
        update_time=timestamp_to_pb(alias.updated),
    )


def lease_answer(lease: LeaseRecord) -> catalog_pb2.Lease:
    """One use of a version."""
    return catalog_pb2.Lease(
        holder=lease.holder,
        digest=lease.digest,
        number=lease.number,
        expire_time=timestamp_to_pb(lease.expires),
    )


# Beside 10,000 edges of 150 bytes, below what a message takes.
_LINEAGE_BYTES = 6 << 20


def lineage_answer(lineage: Lineage) -> catalog_pb2.GetLineageResponse:
    """A graph of versions; of recipes that are too long for a message, the nearest."""
    nodes = [_node(node) for node in lineage.nodes]
    told = nodes[: max(1, sum(size <= _LINEAGE_BYTES for size in accumulate(node.ByteSize() for node in nodes)))]
    names = {node.digest for node in told}
    return catalog_pb2.GetLineageResponse(
        nodes=told,
        edges=[
            catalog_pb2.LineageEdge(child=child, parent=parent)
            for child, parent in lineage.edges
            if {child, parent} <= names
        ],
        truncated=lineage.truncated or len(told) < len(nodes),
    )


def _node(node: LineageNode) -> catalog_pb2.LineageNode:
    message = catalog_pb2.LineageNode(digest=node.digest, published_as=node.published_as)
    if node.manifest is not None and node.created is not None:
        message.base_id = node.manifest.base_id
        message.create_time.CopyFrom(timestamp_to_pb(node.created))
        if node.manifest.recipe is not None:
            message.recipe.CopyFrom(recipe_to_pb(node.manifest.recipe))
    return message


def event_answer(event: Event) -> catalog_pb2.WatchResponse:
    """One event with the token that goes on behind it."""
    message = catalog_pb2.WatchResponse(
        resume_token=str(event.sequence),
        commit_time=timestamp_to_pb(event.committed),
        namespace=event.namespace,
        name=event.name,
    )
    _tell(message, event)
    return message


def _tell(message: catalog_pb2.WatchResponse, event: Event) -> None:
    match event.kind:
        case EventKind.BASE_REGISTERED:
            message.base_registered.base_id = event.digest
        case EventKind.BASE_UPDATED:
            message.base_updated.base_id = event.digest
        case EventKind.VERSION_CREATED:
            message.version_created.digest, message.version_created.number = event.digest, event.number
        case EventKind.VERSION_YANKED:
            message.version_yanked.digest, message.version_yanked.reason = event.digest, event.text
        case EventKind.VERSION_DELETED:
            message.version_deleted.digest = event.digest
        case EventKind.ALIAS_MOVED:
            moved = message.alias_moved
            moved.alias, moved.digest, moved.revision = event.text, event.digest, event.number
        case EventKind.ALIAS_DELETED:
            message.alias_deleted.alias = event.text
