"""Requests as the values that service and catalogue take.

Owns which fields of a message must be set, and how an unset one is read. Does not know what is stored.
"""

from __future__ import annotations

from typing import Protocol

from adapter_registry.domain.records import BaseRecord, Page
from adapter_registry.service.publish import Submission
from lorry.errors import InvalidFieldMask, InvalidInput, InvalidReference
from lorry.format.reference import (
    DEFAULT_NAMESPACE,
    AdapterName,
    Reference,
    check_name,
    parse_adapter_name,
    parse_reference,
)
from lorry.rpc.convert import base_from_pb, file_from_pb, recipe_from_pb
from lorry.v1 import catalog_pb2 as pb

_WRITABLE = frozenset({"description", "labels"})


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
    )


def exact_reference(text: str) -> Reference:
    """A reference that says which version it means. Raises InvalidReference on a bare name."""
    reference = parse_reference(text)
    if reference == Reference(reference.adapter):
        raise InvalidReference(
            f"expected a number, an alias or a digest behind {text!r}: a bare name would mean the newest by accident"
        )
    return reference


def masked(request: pb.UpdateAdapterRequest) -> tuple[str | None, dict[str, str] | None]:
    """Description and labels to write, None for what stays. Raises InvalidFieldMask."""
    paths = set(request.update_mask.paths)
    if not paths or not paths <= _WRITABLE:
        raise InvalidFieldMask(f"expected paths among {sorted(_WRITABLE)}, got {sorted(paths)[:20]}")
    return (
        request.adapter.description if "description" in paths else None,
        dict(request.adapter.labels) if "labels" in paths else None,
    )


def updated_name(request: pb.UpdateAdapterRequest) -> AdapterName:
    """Which adapter an update is for; an unset namespace means the default one. Raises InvalidName, InvalidInput."""
    if not request.HasField("adapter"):
        raise InvalidInput("adapter: expected namespace and name of an adapter, got none")
    namespace, name = request.adapter.namespace or DEFAULT_NAMESPACE, request.adapter.name
    return AdapterName(check_name(namespace, "namespace"), check_name(name, "adapter name"))
