"""Protobuf requests into the runtime's calls.

Owns the reading of oneofs, unset fields and their defaults. Does not judge values: the runtime's
validation does, so that every way in has the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from compute_worker.combination import CombineMethod
from compute_worker.contract import Sampling
from compute_worker.rpc.sizes import check_sizes
from compute_worker.runtime.api import CombineCall, GenerateCall, PublishAs, RouteTarget, Stop, Tier, Weighted
from compute_worker.runtime.route import DEFAULT
from compute_worker.wording import Constraint, Form
from lorry.errors import InvalidCombination, InvalidInput
from lorry.v1 import inference_pb2, residency_pb2, types_pb2

# What grpc hands every servicer; its messages are told by each method itself.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_SIGNS: dict[float, str] = {
    residency_pb2.MAJORITY_SIGN_UNSPECIFIED: "total",
    residency_pb2.MAJORITY_SIGN_TOTAL: "total",
    residency_pb2.MAJORITY_SIGN_FREQUENCY: "frequency",
}

_LOAD_TIERS = {
    residency_pb2.TIER_UNSPECIFIED: Tier.POOL,
    residency_pb2.TIER_DISK: Tier.DISK,
    residency_pb2.TIER_HOST: Tier.HOST,
    residency_pb2.TIER_POOL: Tier.POOL,
}


def weighted(adapters: Iterable[types_pb2.WeightedAdapter]) -> tuple[Weighted, ...]:
    """Adapters with weights; an unset weight is 1."""
    return tuple(Weighted(a.adapter, a.weight if a.HasField("weight") else 1.0) for a in adapters)


def prompt(
    asked: inference_pb2.GenerateRequest | inference_pb2.ScoreItem,
) -> tuple[str | None, tuple[tuple[str, str], ...] | None, tuple[int, ...] | None]:
    """Text, chat and tokens of a prompt; None for those that are not set."""
    given = asked.WhichOneof("prompt")
    return (
        asked.text if given == "text" else None,
        tuple((message.role, message.content) for message in asked.chat.messages) if given == "chat" else None,
        tuple(asked.tokens.ids) if given == "tokens" else None,
    )


def generate_call(request: inference_pb2.GenerateRequest, deadline: float | None) -> GenerateCall:
    """A generation. Raises as check_sizes, and InvalidInput where no prompt is set, or a session without its id."""
    check_sizes(request)
    if request.WhichOneof("prompt") is None:
        raise InvalidInput("expected one of text, chat or tokens, got none")
    text, chat, tokens = prompt(request)
    by_route = request.WhichOneof("target") != "selection"
    return GenerateCall(
        text=text,
        chat=chat,
        tokens=tokens,
        selection=None if by_route else weighted(request.selection.adapters),
        route=request.route or (DEFAULT if request.WhichOneof("target") == "route" else ""),
        affinity=request.affinity,
        scale=request.scale if request.HasField("scale") else 1.0,
        session=_session(request),
        follow=request.session.follow,
        sampling=_sampling(request),
        seed=request.sampling.seed if request.sampling.HasField("seed") else None,
        stop=_stop(request.stop),
        deadline=deadline,
        begin_within=seconds(request.begin_within) if request.HasField("begin_within") else None,
        tenant=request.tenant,
        priority=request.priority,
        constraint=_constraint(request),
        stream_interval=request.stream_interval or 1,
    )


def _session(request: inference_pb2.GenerateRequest) -> str:
    if request.HasField("session") and not request.session.id:
        raise InvalidInput("expected a session's id, got nothing")
    return request.session.id


def _constraint(request: inference_pb2.GenerateRequest) -> Constraint | None:
    form = request.WhichOneof("constraint")
    return None if form is None else Constraint(Form(form), getattr(request, form))


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


def seconds(span: Duration) -> float:
    """A duration, whatever a message can say."""
    # ToTimedelta has no room for some of what a message can say.
    return span.seconds + span.nanos / 1e9


def _stop(stop: inference_pb2.StopConditions) -> Stop:
    return Stop(
        max_new_tokens=stop.max_new_tokens,
        strings=tuple(stop.strings),
        token_ids=tuple(stop.token_ids),
        ignore_eos=stop.ignore_eos,
    )


def targets(request: inference_pb2.SwitchRequest) -> tuple[RouteTarget, ...]:
    """The branches of a switch; an unset share is 1. Raises as check_sizes."""
    check_sizes(request)
    return tuple(
        RouteTarget(weighted(target.selection.adapters), target.share if target.HasField("share") else 1.0, target.name)
        for target in request.targets
    )


def expected_revision(
    request: inference_pb2.SwitchRequest | inference_pb2.RollbackRouteRequest | inference_pb2.DeleteRouteRequest,
) -> int | None:
    """The revision that a route must have; None for no condition."""
    return request.expected_revision if request.HasField("expected_revision") else None


def load_tier(request: residency_pb2.LoadRequest) -> Tier:
    """How near an adapter has to be brought. Raises InvalidInput."""
    if request.tier not in _LOAD_TIERS:
        raise InvalidInput(f"tier: expected TIER_POOL, TIER_HOST, TIER_DISK or none, got {request.tier}")
    return _LOAD_TIERS[request.tier]


def combine_call(request: residency_pb2.CombineRequest) -> CombineCall:
    """A combination. Raises as check_sizes, and InvalidCombination where no method is set."""
    check_sizes(request)
    publish = None
    if request.HasField("publish"):
        publish = PublishAs(request.publish.adapter, request.publish.alias, request.publish.description)
    return CombineCall(weighted(request.sources), _method(request), publish, request.dry_run)


def _method(request: residency_pb2.CombineRequest) -> CombineMethod:
    name = request.WhichOneof("method")
    if name is None:
        raise InvalidCombination("expected one method, got none")
    message = getattr(request, name)
    # A message per method, whose fields are the parameters; those that may be unset have no default.
    given = [
        field.name for field in message.DESCRIPTOR.fields if not field.has_presence or message.HasField(field.name)
    ]
    return CombineMethod(name, tuple((parameter, _parameter(parameter, message)) for parameter in given))


def _parameter(name: str, message: Message) -> float | int | str:
    value: float | int = getattr(message, name)
    if name != "majority_sign":
        return value
    if value not in _SIGNS:
        raise InvalidCombination(f"majority_sign: expected TOTAL or FREQUENCY, got {value}")
    return _SIGNS[value]


def monotonic_deadline(context: Context, now: float) -> float | None:
    """The caller's deadline on the clock that `now` was read from; None where it set none."""
    left = context.time_remaining()
    return None if left is None else now + left
