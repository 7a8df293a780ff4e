"""Requests as the values that service and catalogue take.

Owns which fields of a message must be set, and how an unset one is read. Does not know what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, Protocol

from adapter_registry.domain.records import BaseRecord, Page
from adapter_registry.service.publish import Submission
from adapter_registry.service.rules import check_description, check_keep_last, check_labels
from lorry.errors import InvalidDigest, InvalidFieldMask, InvalidInput, InvalidReference
from lorry.format.compatibility import CarryOver
from lorry.format.reference import (
    DEFAULT_NAMESPACE,
    AdapterName,
    Reference,
    check_name,
    parse_adapter_name,
    parse_reference,
)
from lorry.rpc.convert import base_from_pb, carry_over_from_pb, file_from_pb, recipe_from_pb, span_from_pb
from lorry.v1 import catalog_pb2 as pb

_FAMILY = frozenset({"carry_over", "derived_from"})
# The contract's bound on lists that grow with what was deleted: 0.7 MB of digests.
_TOLD = 10_000
# What a worker may hold, and for how long.
_MAX_LEASES = 4_096
_TTL = timedelta(seconds=60)
_SHORTEST_TTL, _LONGEST_TTL = timedelta(seconds=1), timedelta(hours=1)
_DEPTH, _MAX_DEPTH = 10, 100
_WRITABLE = frozenset({"description", "keep_last", "labels"})


class _Paged(Protocol):
    @property
    def page_size(self) -> int: ...
    @property
    def page_token(self) -> str: ...


def page_of(request: _Paged) -> Page:
    """Which part of a list is wanted."""
    return Page(request.page_size, request.page_token)


def namespace_of(text: str) -> str | None:
    """None where it is unset: all of them. Raises InvalidName."""
    return check_name(text, "namespace") if text else None


def base_of(request: pb.RegisterBaseModelRequest) -> BaseRecord:
    """The base of the request. Raises InvalidInput."""
    if not request.HasField("base_model"):
        raise InvalidInput("base_model: expected a base model, got none")
    base = request.base_model
    return BaseRecord(
        name=base.name,
        facts=base_from_pb(base),
        known_as=tuple(base.known_as),
        derived_from=base.derived_from or None,
        carry_over=carry_over_from_pb(base.carry_over),
    )


def updated_base(request: pb.UpdateBaseModelRequest) -> str:
    """Which base an update is for, by base_id or name. Raises InvalidInput."""
    if not (request.base_model.base_id or request.base_model.name):
        raise InvalidInput("base_model: expected base_id or name of a base, got neither")
    return request.base_model.base_id or request.base_model.name


def masked_family(request: pb.UpdateBaseModelRequest) -> tuple[str | None, CarryOver | None]:
    """Parent (empty for none) and policy to write, None for what stays. Raises InvalidFieldMask, InvalidInput."""
    paths = set(request.update_mask.paths)
    if not paths or not paths <= _FAMILY:
        raise InvalidFieldMask(f"expected paths among {sorted(_FAMILY)}, got {sorted(paths)[:20]}")
    return (
        request.base_model.derived_from if "derived_from" in paths else None,
        carry_over_from_pb(request.base_model.carry_over) if "carry_over" in paths else None,
    )


def submission_of(request: pb.CreateVersionRequest) -> Submission:
    """What is to be published. Raises InvalidReference, InvalidName."""
    return Submission(
        adapter=parse_adapter_name(request.adapter),
        files=tuple(file_from_pb(file) for file in request.files),
        base=request.base_model,
        parents=tuple(parse_reference(parent) for parent in request.parents),
        recipe=recipe_from_pb(request.recipe) if request.HasField("recipe") else None,
        expected_digest=request.expected_digest,
        alias=request.alias or None,
        description=request.description,
        labels=dict(request.labels),
        signatures=tuple(request.signatures),
    )


def exact_reference(text: str) -> Reference:
    """A reference that says which version it means. Raises InvalidReference on a bare name."""
    reference = parse_reference(text)
    if reference == Reference(reference.adapter):
        raise InvalidReference(
            f"expected a number, an alias or a digest behind {text!r}: a bare name would mean the newest by accident"
        )
    return reference


class Change(NamedTuple):
    """What to write of an adapter; None for what stays."""

    description: str | None
    labels: dict[str, str] | None
    keep_last: int | None


def changed(request: pb.UpdateAdapterRequest) -> Change:
    """The masked fields. Raises InvalidFieldMask, InvalidInput."""
    paths, adapter = set(request.update_mask.paths), request.adapter
    if not paths or not paths <= _WRITABLE:
        raise InvalidFieldMask(f"expected paths among {sorted(_WRITABLE)}, got {sorted(paths)[:20]}")
    return Change(
        check_description(adapter.description) if "description" in paths else None,
        check_labels(adapter.labels) if "labels" in paths else None,
        check_keep_last(adapter.keep_last) if "keep_last" in paths else None,
    )


def updated_name(request: pb.UpdateAdapterRequest) -> AdapterName:
    """Which adapter an update is for; an unset namespace means the default one. Raises InvalidName, InvalidInput."""
    if not request.HasField("adapter"):
        raise InvalidInput("adapter: expected namespace and name of an adapter, got none")
    namespace, name = request.adapter.namespace or DEFAULT_NAMESPACE, request.adapter.name
    return AdapterName(check_name(namespace, "namespace"), check_name(name, "adapter name"))


def told(names: Sequence[str]) -> Sequence[str]:
    """As many as an answer tells."""
    return names[:_TOLD]


def depth_of(request: pb.GetLineageRequest) -> int:
    """Generations to follow. Raises InvalidInput."""
    if request.depth < 0:
        raise InvalidInput(f"depth: expected 0 to {_MAX_DEPTH}, got {request.depth}")
    return min(request.depth or _DEPTH, _MAX_DEPTH)


def leased(request: pb.RenewLeasesRequest) -> list[Reference]:
    """What is to be held. Raises InvalidInput, InvalidReference, and InvalidDigest where a digest is not named."""
    if len(request.adapters) > _MAX_LEASES:
        raise InvalidInput(f"adapters: expected at most {_MAX_LEASES}, got {len(request.adapters)}")
    references = [parse_reference(text) for text in request.adapters]
    for reference in references:
        if reference.digest is None:
            raise InvalidDigest(f"expected a reference by digest, namespace/name@sha256:..., got {str(reference)!r}")
    return references


def ttl_of(request: pb.RenewLeasesRequest) -> timedelta:
    """How long a lease holds. Raises InvalidInput."""
    ttl = span_from_pb(request.ttl) if request.HasField("ttl") else _TTL
    if not _SHORTEST_TTL <= ttl <= _LONGEST_TTL:
        raise InvalidInput(f"ttl: expected 1 to 3600 s, got {ttl.total_seconds():g}")
    return ttl
