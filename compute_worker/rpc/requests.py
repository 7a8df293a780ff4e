"""Protobuf requests into the runtime's calls.

Owns the reading of oneofs, unset fields and their defaults. Does not judge values: the runtime's
validation does, so that every way in has the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc.aio

from compute_worker.contract import CombineMethod, Sampling
from compute_worker.runtime.api import CombineCall, GenerateCall, PublishAs, Stop, Weighted
from lorry.errors import InvalidCombination, InvalidInput, InvalidSelection, UnsupportedRoute
from lorry.v1 import inference_pb2, residency_pb2, types_pb2

# What grpc hands every servicer; its messages are told by each method itself.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DEFAULT_ROUTE = "default"

_SIGNS = {
    residency_pb2.MAJORITY_SIGN_UNSPECIFIED: "total",
    residency_pb2.MAJORITY_SIGN_TOTAL: "total",
    residency_pb2.MAJORITY_SIGN_FREQUENCY: "frequency",
}


def weighted(adapters: Iterable[types_pb2.WeightedAdapter]) -> tuple[Weighted, ...]:
    """Adapters with weights; an unset weight is 1."""
    return tuple(Weighted(a.adapter, a.weight if a.HasField("weight") else 1.0) for a in adapters)


def generate_call(request: inference_pb2.GenerateRequest, deadline: float | None) -> GenerateCall:
    """A generation. Raises InvalidInput where no prompt is set."""
    prompt = request.WhichOneof("prompt")
    if prompt is None:
        raise InvalidInput("expected one of text, chat or tokens, got none")
    by_route = request.WhichOneof("target") != "selection"
    return GenerateCall(
        text=request.text if prompt == "text" else None,
        chat=tuple((m.role, m.content) for m in request.chat.messages) if prompt == "chat" else None,
        tokens=tuple(request.tokens.ids) if prompt == "tokens" else None,
        selection=None if by_route else weighted(request.selection.adapters),
        route=request.route or DEFAULT_ROUTE,
        sampling=_sampling(request),
        seed=request.sampling.seed if request.sampling.HasField("seed") else None,
        stop=_stop(request.stop),
        deadline=deadline,
    )


def _sampling(request: inference_pb2.GenerateRequest) -> Sampling:
    asked = request.sampling
    neutral = Sampling()
    return Sampling(
        temperature=asked.temperature if asked.HasField("temperature") else neutral.temperature,
        top_k=asked.top_k if asked.HasField("top_k") else neutral.top_k,
        top_p=asked.top_p if asked.HasField("top_p") else neutral.top_p,
        min_p=asked.min_p if asked.HasField("min_p") else neutral.min_p,
        repetition_penalty=(
            asked.repetition_penalty if asked.HasField("repetition_penalty") else neutral.repetition_penalty
        ),
        logprobs=request.logprobs if request.HasField("logprobs") else None,
    )


def _stop(stop: inference_pb2.StopConditions) -> Stop:
    return Stop(
        max_new_tokens=stop.max_new_tokens,
        strings=tuple(stop.strings),
        token_ids=tuple(stop.token_ids),
        ignore_eos=stop.ignore_eos,
    )


def route_selection(request: inference_pb2.SwitchRequest) -> tuple[Weighted, ...]:
    """The one branch of a switch. Raises InvalidSelection, UnsupportedRoute."""
    if len(request.targets) > 1:
        raise UnsupportedRoute(f"expected one target, got {len(request.targets)}: shares are not served yet")
    if not request.targets:
        raise InvalidSelection("expected one target (an empty selection is the base model alone), got none")
    target = request.targets[0]
    if target.HasField("share") and not target.share > 0:
        raise InvalidSelection(f"share: expected a number above 0, got {target.share}")
    return weighted(target.selection.adapters)


def combine_call(request: residency_pb2.CombineRequest) -> CombineCall:
    """A combination. Raises InvalidCombination where no method is set."""
    publish = None
    if request.HasField("publish"):
        publish = PublishAs(request.publish.adapter, request.publish.alias, request.publish.description)
    return CombineCall(weighted(request.sources), _method(request), publish)


def _method(request: residency_pb2.CombineRequest) -> CombineMethod:
    name = request.WhichOneof("method")
    match name:
        case None:
            raise InvalidCombination("expected one method, got none")
        case "linear" | "cat":
            return CombineMethod(name)
        case "magnitude_prune":
            return CombineMethod(name, (("density", request.magnitude_prune.density),))
        case "ties":
            return CombineMethod(name, (("density", request.ties.density), _sign(request.ties.majority_sign)))
        case "dare_linear":
            dare = request.dare_linear
            return CombineMethod(name, (("density", dare.density), ("seed", dare.seed)))
        case "dare_ties":
            both = request.dare_ties
            return CombineMethod(name, (("density", both.density), _sign(both.majority_sign), ("seed", both.seed)))
        case "svd":
            return _svd(request.svd)


def _sign(value: residency_pb2.MajoritySign.ValueType) -> tuple[str, str]:
    if value not in _SIGNS:
        raise InvalidCombination(f"majority_sign: expected TOTAL or FREQUENCY, got {value}")
    return "majority_sign", _SIGNS[value]


def _svd(svd: residency_pb2.SvdMethod) -> CombineMethod:
    parameters: list[tuple[str, float | int | str]] = [("rank", svd.rank)]
    if svd.HasField("clamp_quantile"):
        parameters.append(("clamp_quantile", svd.clamp_quantile))
    return CombineMethod("svd", tuple(parameters))


def monotonic_deadline(context: Context, now: float) -> float | None:
    """The caller's deadline on the clock that `now` was read from; None where it set none."""
    left = context.time_remaining()
    return None if left is None else now + left
