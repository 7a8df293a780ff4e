"""Requests for an engine, cut into the rows of steps by hand.

Owns which KV blocks a request takes. Every row draws, so that its last logits can be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compute_worker.contract import ActiveAdapter, Sampling, StepRow
from compute_worker.engine.admission import AUTO
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.kv import BLOCK_TOKENS
from tests.support.models import VOCABULARY
from tests.support.peft_adapters import facts_of, weights_of

_BLOCKS = 4
GREEDY = Sampling()


def engine_of(
    model: PreTrainedModel, pool_bytes: int = 1 << 20, kv_bytes: int = 1 << 20, executor: str = AUTO
) -> TransformersEngine:
    """An engine that takes the model over."""
    return TransformersEngine(model, Budgets(pool_bytes, kv_bytes), executor)


def install(engine: TransformersEngine, adapter: Path, start: int, weight: float = 1.0) -> ActiveAdapter:
    """Read and install a folder."""
    loaded = engine.read(weights_of(adapter), facts_of(adapter))
    engine.install(loaded, start)
    return ActiveAdapter(start, loaded.rank, weight)


def prompt(length: int, seed: int = 0) -> list[int]:
    """Random ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()


@dataclass(frozen=True)
class Request:
    """A request whose KV lies in 4 blocks of its own, the ones of `seat`, in descending order."""

    tokens: Sequence[int]
    seat: int
    adapters: tuple[ActiveAdapter, ...] = ()
    sampling: Sampling = GREEDY

    def row(self, begin: int, end: int) -> StepRow:
        """Tokens [begin, end) as a row that draws."""
        blocks = tuple(range((self.seat + 1) * _BLOCKS - 1, self.seat * _BLOCKS - 1, -1))
        assert end <= _BLOCKS * BLOCK_TOKENS
        return StepRow(self.tokens[begin:end], begin, blocks, self.adapters, self.sampling, self.tokens[:end], 0)


def run(engine: TransformersEngine, rows: Sequence[StepRow]) -> list[Tensor]:
    """Logits [vocabulary] behind the last token of each row."""
    indices, logits = engine.logits(rows)
    return [logits[indices.index(index)] for index in range(len(rows))]


def run_all(engine: TransformersEngine, requests: Sequence[Request]) -> list[Tensor]:
    """Every request whole, in one step."""
    return run(engine, [request.row(0, len(request.tokens)) for request in requests])


def generate(engine: TransformersEngine, requests: Sequence[Request], count: int) -> list[list[int]]:
    """`count` tokens of each request, all of them together in every step."""
    contexts = [list(request.tokens) for request in requests]
    done = [0] * len(requests)
    for index in range(count):
        rows = [
            replace(replace(request, tokens=context).row(begin, len(context)), sample=request.sampling, index=index)
            for request, context, begin in zip(requests, contexts, done, strict=True)
        ]
        done = [len(context) for context in contexts]
        for context, drawn in zip(contexts, engine.step(rows), strict=True):
            assert drawn is not None
            context.append(drawn.token)
    return [context[len(request.tokens) :] for request, context in zip(requests, contexts, strict=True)]
