"""The general executor: a model with our attention and our linears in place of its own.

Owns the two changes made to a loaded model and the one way to call it. Does not know what the
attention does or what the linears add.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compute_worker.engine.attention import GATHERED, Attention, attending
from compute_worker.engine.changing import Changing
from compute_worker.engine.executor import Scores, chosen
from compute_worker.engine.kv import KvCache
from compute_worker.engine.layout import Layout
from compute_worker.engine.linear import AdaptedLinear
from compute_worker.engine.pool import RankPool
from compute_worker.engine.sites import Sites


class HookedExecutor:
    """Executor over a hooked model: any architecture, type and device that passes the check at start."""

    nbytes = 0
    draft_tokens = 0

    def __init__(self, model: PreTrainedModel, kv: KvCache, pool: RankPool, attention: Attention = GATHERED) -> None:
        self.name = "-".join(part for part in ("transformers", attention.name) if part)
        self._model = model
        self._kv = kv
        self._pool = pool
        self._attention = attention
        self._changing = Changing(pool)
        self._sites = Sites(model)

    @torch.inference_mode()
    def run(self, layout: Layout, needed: Sequence[int]) -> Scores:
        """See Executor."""
        self._pool.plan(layout)
        changes = self._changing.of(layout)
        self._sites.tell(changes)
        with attending(self._attention.begin(self._kv, layout)):
            logits = forward(self._model, layout.ids, layout.positions, layout.kept)
        return chosen(logits, layout, needed, changes.widths)


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
    return call(
        model,
        torch.tensor(ids, device=device),
        torch.tensor(positions, device=device),
        torch.tensor(kept, dtype=torch.long, device=device),
    )


def call(model: PreTrainedModel, ids: Tensor, positions: Tensor, kept: Tensor) -> Tensor:
    """As `forward`, of tensors on the model's device."""
    logits: Tensor = model(
        input_ids=ids[None],
        position_ids=positions[None],
        past_key_values=None,
        use_cache=False,
        logits_to_keep=kept,
    ).logits
    return logits[0]
