"""Score requests into the runtime's calls, and its scores into replies.

Owns the reading of an item's oneofs and the spelling of a score. Does not judge values: the runtime's
validation does.
"""

from __future__ import annotations

import math

from compute_worker.rpc.replies import resolved
from compute_worker.rpc.requests import prompt, weighted
from compute_worker.rpc.sizes import check_sizes
from compute_worker.runtime.api import ItemScore, ScoreCall, ScoreItem
from compute_worker.runtime.route import DEFAULT
from lorry.v1 import inference_pb2


def score_call(request: inference_pb2.ScoreRequest, deadline: float | None) -> ScoreCall:
    """All items of a call. Raises as check_sizes."""
    check_sizes(request)
    items = tuple(_item(item) for item in request.items)
    return ScoreCall(items, deadline, request.tenant, request.priority)


def _item(item: inference_pb2.ScoreItem) -> ScoreItem:
    text, chat, tokens = prompt(item)
    continuation = item.WhichOneof("continuation")
    by_route = item.WhichOneof("target") != "selection"
    return ScoreItem(
        text=text,
        chat=chat,
        tokens=tokens,
        continuation=item.continuation_text if continuation == "continuation_text" else None,
        continuation_tokens=tuple(item.continuation_tokens.ids) if continuation == "continuation_tokens" else None,
        selection=None if by_route else weighted(item.selection.adapters),
        route=item.route or DEFAULT,
    )


def score_response(score: ItemScore) -> inference_pb2.ScoreResponse:
    """The score of one item."""
    return inference_pb2.ScoreResponse(
        index=score.index,
        logprob=math.fsum(score.logprobs),
        greedy=all(score.greedy),
        tokens=[
            inference_pb2.TokenScore(token_id=token, logprob=logprob, greedy=greedy)
            for token, logprob, greedy in zip(score.tokens, score.logprobs, score.greedy, strict=True)
        ],
        prompt_tokens=score.prompt_tokens,
        base_id=score.base_id,
        adapters=[resolved(adapter) for adapter in score.adapters],
        route=score.route,
        route_revision=score.route_revision,
        tokenizer_digest=score.tokenizer,
        inactive=score.inactive,
    )
