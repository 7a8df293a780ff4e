"""Whether a model places tokens by the positions that it is told, and by nothing else.

Owns the question: a few tokens far into a text, once as steps give them (positions alone) and once as transformers'
generation does (with a cache of all that was before). Some models count what they were given instead, which no
prompt from position 0 on shows. Does not know how attention is computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from compute_worker.engine.attention import Rule, attending
from lorry.errors import UnsupportedModel

_TOKENS = 4
# Largest difference of queries, keys or values, relative to their norm: they are computed in the same order of the
# same numbers, but for what a device adds up in no order at all.
_SAME = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


class Attended:
    """Answers attention with noise, and remembers what it was asked. by_layer: queries, keys, values, answer."""

    def __init__(self) -> None:
        self._noise = torch.Generator().manual_seed(0)
        self.by_layer: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:  # noqa: ARG002 - as Attending
        """See Attending."""
        shape = (1, query.shape[2], query.shape[1], value.shape[3])
        answer = torch.randn(shape, generator=self._noise).to(query)
        self.by_layer[layer] = query, key, value, answer
        return answer


class _Past(DynamicCache):  # type: ignore[misc] # transformers leaves it untyped
    """A cache that says how long the text is so far, and has nothing of it."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens

    def get_seq_length(self, *_: Any) -> int:
        """Tokens before those that come."""
        return self._tokens

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The new ones alone."""
        return key_states, value_states


@torch.inference_mode()
def check_positions(model: PreTrainedModel, context: int) -> None:
    """Raise UnsupportedModel where tokens at the end of a context are placed elsewhere than in generation."""
    before = context - _TOKENS
    if before <= 0:
        return
    told, counted = _attended(model, before, None), _attended(model, before, _Past(before))
    for layer, asked in told.items():
        for got, expected in zip(asked, counted[layer], strict=True):
            apart = (got.float() - expected.float()).norm() / expected.float().norm()
            if not apart <= _SAME[model.dtype]:
                raise UnsupportedModel(
                    f"{model.config.model_type}: layer {layer} places token {before} of a text by how many tokens it "
                    "is given with, not by its position; a smaller context may do"
                )


def _attended(model: PreTrainedModel, before: int, past: _Past | None) -> dict[int, tuple[Tensor, ...]]:
    ids = torch.arange(_TOKENS, device=model.device)[None] * 7919 % model.config.vocab_size
    positions = torch.arange(before, before + _TOKENS, device=model.device)[None]
    attended = Attended()
    with attending(attended):
        model(input_ids=ids, position_ids=positions, past_key_values=past, use_cache=False)
    return dict(attended.by_layer)
