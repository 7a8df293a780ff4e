"""What a caller must be allowed to, by rpc: one table, complete.

Owns the rules. Each is judged before the call begins, by what the request names and by what that has
to do with at this moment; what a list may show is the servicer's part. Does not know who a caller is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

from compute_worker.runtime.rights import Homes, Permission, Rights
from compute_worker.runtime.route import DEFAULT
from lorry.format.reference import parse_adapter_name
from lorry.v1 import inference_pb2, residency_pb2, types_pb2


class Belongings(Protocol):
    """Which namespaces decide about what."""

    def homes(self, reference: str) -> Homes:
        """About an adapter, whether or not there is one. Raises InvalidReference, InvalidName."""

    def route_homes(self, name: str) -> Homes:
        """About a route; none where it has no adapters, or is not there."""

    def rollback_homes(self, name: str, revision: int) -> Homes:
        """About what a rollback would bring. Raises RouteNotFound, NoEarlierVersion."""

    def session_homes(self, caller: str, session: str, *, follow: bool) -> Homes | None:
        """About what a session keeps or, where it follows, gets; None where there is none."""


# Raises PermissionDenied, and InvalidReference or InvalidName where the request cannot be judged.
Rule: TypeAlias = Callable[[Any, Rights, Belongings], None]


def _anybody(_request: object, _rights: Rights, _: Belongings) -> None:
    """Whoever is known."""


def _generate(request: inference_pb2.GenerateRequest, rights: Rights, belongings: Belongings) -> None:
    """For what the request names, and for what its session would serve it with."""
    session = request.session
    kept = belongings.session_homes(rights.holder, session.id, follow=session.follow) if session.id else None
    rights.require(Permission.READ, kept or ())
    if kept is None or request.WhichOneof("target"):
        _named(request, rights, belongings)


def _named(
    request: inference_pb2.GenerateRequest | inference_pb2.ScoreItem, rights: Rights, belongings: Belongings
) -> None:
    if request.WhichOneof("target") == "selection":
        rights.require(Permission.READ, _of(request.selection.adapters, belongings))
    else:
        rights.require(Permission.READ, belongings.route_homes(request.route or DEFAULT))


def _score(request: inference_pb2.ScoreRequest, rights: Rights, belongings: Belongings) -> None:
    for item in request.items:
        _named(item, rights, belongings)


def _read_route(
    request: inference_pb2.GetRouteRequest | inference_pb2.ListRouteHistoryRequest,
    rights: Rights,
    belongings: Belongings,
) -> None:
    rights.require(Permission.READ, belongings.route_homes(request.route or DEFAULT))


def _switch(request: inference_pb2.SwitchRequest, rights: Rights, belongings: Belongings) -> None:
    """In the namespaces of what the route gets and of what it has; where there are none, anywhere at all."""
    adapters = [adapter for target in request.targets for adapter in target.selection.adapters]
    _push_route(request.route or DEFAULT, rights, belongings)
    rights.require(Permission.PUSH, _of(adapters, belongings))


def _rollback(request: inference_pb2.RollbackRouteRequest, rights: Rights, belongings: Belongings) -> None:
    name = request.route or DEFAULT
    _push_route(name, rights, belongings)
    rights.require(Permission.PUSH, belongings.rollback_homes(name, request.revision))


def _delete_route(request: inference_pb2.DeleteRouteRequest, rights: Rights, belongings: Belongings) -> None:
    _push_route(request.route, rights, belongings)


def _push_route(name: str, rights: Rights, belongings: Belongings) -> None:
    rights.require_somewhere(Permission.PUSH)
    rights.require(Permission.PUSH, belongings.route_homes(name))


def _adapter(permission: Permission) -> Rule:
    def rule(request: Any, rights: Rights, belongings: Belongings) -> None:
        rights.require(permission, belongings.homes(request.adapter))

    return rule


def _combine(request: residency_pb2.CombineRequest, rights: Rights, belongings: Belongings) -> None:
    rights.require(Permission.READ, _of(request.sources, belongings))
    if request.HasField("publish"):
        namespace = parse_adapter_name(request.publish.adapter).namespace
        rights.require(Permission.PUSH, (frozenset({namespace}),))


def _of(adapters: Iterable[types_pb2.WeightedAdapter], belongings: Belongings) -> Homes:
    return tuple(group for adapter in adapters for group in belongings.homes(adapter.adapter))


RULES: dict[str, Rule] = {
    "/lorry.v1.InferenceService/Generate": _generate,
    "/lorry.v1.InferenceService/Score": _score,
    "/lorry.v1.InferenceService/Switch": _switch,
    "/lorry.v1.InferenceService/GetRoute": _read_route,
    "/lorry.v1.InferenceService/ListRoutes": _anybody,
    "/lorry.v1.InferenceService/ListRouteHistory": _read_route,
    "/lorry.v1.InferenceService/RollbackRoute": _rollback,
    "/lorry.v1.InferenceService/DeleteRoute": _delete_route,
    "/lorry.v1.ResidencyService/Load": _adapter(Permission.READ),
    "/lorry.v1.ResidencyService/Unload": _adapter(Permission.PUSH),
    "/lorry.v1.ResidencyService/Pin": _adapter(Permission.PUSH),
    "/lorry.v1.ResidencyService/ListResident": _anybody,
    "/lorry.v1.ResidencyService/WatchResidency": _anybody,
    "/lorry.v1.ResidencyService/Combine": _combine,
    "/lorry.v1.ResidencyService/GetCapabilities": _anybody,
}
# Streams without an end: whoever reads one may do so no longer than he could begin it.
WATCHES = frozenset({"/lorry.v1.ResidencyService/WatchResidency"})
# They say nothing of anybody's adapters.
OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")
