"""The runtime's values into protobuf replies.

Owns the spelling on the wire. Does not know how a value came about.
"""

from __future__ import annotations

from compute_worker.contract import Drawn
from compute_worker.runtime.api import (
    Branch,
    Delta,
    Finished,
    FinishReason,
    ResidentState,
    Resolved,
    RouteChange,
    RouteState,
    Started,
    Tier,
)
from compute_worker.runtime.rights import Permission, rights
from compute_worker.runtime.route import selection_digest
from lorry.format.reference import parse_reference
from lorry.rpc.convert import timestamp_to_pb, variant_to_pb
from lorry.v1 import inference_pb2, residency_pb2, types_pb2

_REASONS = {
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}
_CHANGES = {
    RouteChange.SWITCH: inference_pb2.ROUTE_CHANGE_SWITCH,
    RouteChange.FOLLOW: inference_pb2.ROUTE_CHANGE_FOLLOW,
    RouteChange.ROLLBACK: inference_pb2.ROUTE_CHANGE_ROLLBACK,
}
_TIERS = {
    Tier.GONE: residency_pb2.TIER_UNSPECIFIED,
    Tier.DISK: residency_pb2.TIER_DISK,
    Tier.HOST: residency_pb2.TIER_HOST,
    Tier.POOL: residency_pb2.TIER_POOL,
}


def generate_response(event: Started | Delta | Finished) -> inference_pb2.GenerateResponse:
    """One message of an answer."""
    match event:
        case Started():
            return inference_pb2.GenerateResponse(started=_started(event))
        case Delta():
            return inference_pb2.GenerateResponse(delta=_delta(event))
        case Finished():
            return inference_pb2.GenerateResponse(
                finished=inference_pb2.GenerateFinished(
                    reason=_REASONS[event.reason],
                    stop=event.stop,
                    completion_tokens=event.completion_tokens,
                    cached_tokens=event.cached_tokens,
                )
            )


def _started(event: Started) -> inference_pb2.GenerateStarted:
    return inference_pb2.GenerateStarted(
        base_id=event.base_id,
        adapters=[resolved(a) for a in event.adapters],
        route=event.route,
        route_revision=event.route_revision,
        prompt_tokens=event.prompt_tokens,
        seed=event.seed,
        cached_tokens=event.cached_tokens,
        branch=event.branch,
        new_session=event.new_session,
        tokenizer_digest=event.tokenizer,
        inactive=event.inactive,
    )


def _delta(event: Delta) -> inference_pb2.GenerateDelta:
    return inference_pb2.GenerateDelta(
        text=event.text,
        token_ids=[d.token for d in event.drawn],
        logprobs=[_logprob(d) for d in event.drawn if d.logprob is not None],
        top_logprobs=[
            inference_pb2.TokenLogprob(token_id=token, logprob=value) for d in event.drawn for token, value in d.top
        ],
    )


def _logprob(drawn: Drawn) -> inference_pb2.TokenLogprob:
    return inference_pb2.TokenLogprob(token_id=drawn.token, logprob=drawn.logprob or 0.0)


def resolved(adapter: Resolved) -> types_pb2.ResolvedAdapter:
    """An adapter by digest."""
    return types_pb2.ResolvedAdapter(digest=adapter.digest, weight=adapter.weight, adapter=adapter.adapter)


def route(state: RouteState) -> inference_pb2.Route:
    """A route as it is."""
    return inference_pb2.Route(
        name=state.name,
        revision=state.revision,
        targets=[_target(branch) for branch in state.branches],
        adapters=[resolved(a) for a in state.adapters],
        update_time=timestamp_to_pb(state.updated),
        change=_CHANGES[state.change],
        principal=state.principal,
    )


def _target(branch: Branch) -> inference_pb2.RouteTarget:
    written = [types_pb2.WeightedAdapter(adapter=a.adapter, weight=a.weight) for a in branch.adapters]
    return inference_pb2.RouteTarget(
        selection=types_pb2.Selection(adapters=written),
        share=branch.share,
        name=branch.name,
        adapters=[resolved(a) for a in branch.adapters],
        selection_digest=selection_digest(branch.adapters),
    )


def resident(state: ResidentState) -> residency_pb2.Resident:
    """An adapter near the base model, under those of its names that the caller may know."""
    return residency_pb2.Resident(
        digest=state.digest,
        names=[name for name in state.names if state.combined or rights().may(Permission.READ, _namespace(name))],
        tier=_TIERS[state.tier],
        rank=state.rank,
        size_bytes=state.size,
        variant=variant_to_pb(state.variant),
        leases=state.leases,
        pinned=state.pinned,
        hits=state.hits,
        loads=state.loads,
        last_used_time=timestamp_to_pb(state.last_used),
        combined=state.combined,
    )


def _namespace(reference: str) -> str:
    return parse_reference(reference).adapter.namespace
