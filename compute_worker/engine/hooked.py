"""The general executor: a model with our attention and our linears in place of its own.

Owns the two changes made to a loaded model and the one way to call it. Does not know what the
attention does or what the linears add.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compute_worker.engine.attention import NAME, PagedStep, attending
from compute_worker.engine.executor import Scores, others
from compute_worker.engine.kv import KvCache
from compute_worker.engine.layout import Layout
from compute_worker.engine.linear import AdaptedLinear
from compute_worker.engine.pool import RankPool


class HookedExecutor:
    """Executor over a hooked model: any architecture, type and device that passes the check at start."""

    name = "transformers"
    nbytes = 0

    def __init__(self, model: PreTrainedModel, kv: KvCache, pool: RankPool) -> None:
        self._model = model
        self._kv = kv
        self._pool = pool

    @torch.inference_mode()
    def run(self, layout: Layout, needed: Sequence[int]) -> Scores:
        """See Executor."""
        self._pool.plan(layout)
        with attending(PagedStep(self._kv, layout, self._model.dtype, self._model.device)):
            logits = forward(self._model, layout.ids, layout.positions, layout.kept)
        plain = others(layout, needed)
        return Scores(logits[list(needed)], logits[plain].argmax(-1).tolist() if plain else [])


def hook_attention(model: PreTrainedModel) -> None:
    """From now on every layer attends through the step in progress."""
    model.set_attn_implementation(NAME)


def wrap(model: PreTrainedModel, names: Iterable[str]) -> dict[str, AdaptedLinear]:
    """Put an AdaptedLinear in the place of each named linear, tied weights left tied."""
    wrapped = {}
    for name in names:
        parent, _, child = name.rpartition(".")
        wrapped[name] = AdaptedLinear(model.get_submodule(name))
        setattr(model.get_submodule(parent), child, wrapped[name])
    return wrapped


def forward(model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int], kept: Sequence[int]) -> Tensor:
    """Logits [kept, vocabulary] of the tokens `kept` of one flattened sequence.

    The whole causal model is called, not its head alone: final softcaps and scales live in it.
    """
    device = model.device
    logits: Tensor = model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        past_key_values=None,
        use_cache=False,
        logits_to_keep=torch.tensor(kept, dtype=torch.long, device=device),
    ).logits
    return logits[0]
