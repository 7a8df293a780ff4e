"""The engine: a base model of transformers, its rank pool and its KV cache, one batch a step.

Owns the sizes that budgets give and the course of a step. Does not know requests, names, or why
rows and blocks were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from compute_worker.contract import Computed, EngineLimits, HostAdapter, StepRow
from compute_worker.engine import selfcheck
from compute_worker.engine.admission import AUTO, Served, admitted
from compute_worker.engine.executor import Executor
from compute_worker.engine.hooked import HookedExecutor, wrap
from compute_worker.engine.host import LoadedAdapter, Reading, read_file
from compute_worker.engine.kv import BLOCK_TOKENS, KvCache, block_bytes
from compute_worker.engine.layout import lay_out
from compute_worker.engine.outcome import needs_logits, outcome
from compute_worker.engine.pool import RankPool
from lorry.errors import Internal, InvalidInput, UnsupportedAdapter
from lorry.fingerprint import base_facts
from lorry.format.base import BaseFacts
from lorry.format.facts import AdapterFacts


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bytes for pool and KV; max_context in tokens, 0 for what the model was made for."""

    pool_bytes: int
    kv_bytes: int
    max_context: int = 0


class TransformersEngine:
    """Engine over a model that `load_base` gave, which it takes over and changes.

    executor: `auto` for the fastest that reproduces the model, `transformers` for the general one.
    stored: the type that keys, values and adapters, and the fast executor's weights, are stored in; the model's
    where it is not given.
    Raises UnsupportedModel where the model's own forward cannot be reproduced, InvalidInput where a
    budget is too small.
    """

    def __init__(
        self, model: PreTrainedModel, budgets: Budgets, executor: str = AUTO, stored: torch.dtype | None = None
    ) -> None:
        self._model = model
        self._stored: torch.dtype = stored or model.dtype
        self._device = str(model.device.type)
        self._base = base_facts(model)
        expected = selfcheck.alone(model)
        measured = selfcheck.measure(model)
        head = model.get_output_embeddings()
        self._layers = wrap(model, measured.targets)
        row_bytes = sum(layer.row_bytes(self._stored) for layer in self._layers.values())
        of_block = block_bytes(measured.shapes, self._stored)
        self._limits = _limits(model, budgets, row_bytes, of_block)
        self._kv = KvCache(measured.shapes, self._limits.kv_blocks, self._stored, model.device)
        self._pool = RankPool(
            self._layers,
            self._limits.pool_rows,
            next((layer for layer in self._layers.values() if layer.base is head), None),
            self._stored,
        )
        self._executor: Executor = HookedExecutor(model, self._kv, self._pool)
        selfcheck.compare(model, self.logits, expected, self._stored)
        if executor == AUTO:
            served = Served(model, self._layers, self._kv, self._pool, measured.rules, self._limits, self._stored)
            self._executor = admitted(served, self._executor)
        self._limits = replace(self._limits, base_bytes=_weights(model) + self._executor.nbytes)

    @property
    def base(self) -> BaseFacts:
        """Fingerprint and module table of the base that was loaded."""
        return self._base

    @property
    def limits(self) -> EngineLimits:
        """The sizes it was built with."""
        return self._limits

    @property
    def device(self) -> str:
        """Kind of device, for example `cpu`."""
        return self._device

    @property
    def dtype(self) -> str:
        """Type that weights are stored in, for example `bfloat16`."""
        return str(self._stored).removeprefix("torch.")

    @property
    def executor(self) -> str:
        """What runs its forwards: `transformers`, or `native-` and the kind of CPU."""
        return self._executor.name

    def reading(self, facts: AdapterFacts) -> Reading:
        """See Engine."""
        return Reading(facts, self._base, self._layers)

    def read(self, weights: Path, facts: AdapterFacts) -> LoadedAdapter:
        """An adapter out of a file, for who has it at hand. Raises as the parts of Engine.reading, OSError."""
        return read_file(weights, self.reading(facts))

    def weight(self, module: str) -> NDArray[np.float32]:
        """See Engine."""
        if module not in self._layers:
            raise UnsupportedAdapter(f"expected a module that sees every token (no experts, no routers), got {module}")
        weight: NDArray[np.float32] = self._layers[module].rows().float().cpu().numpy()
        return weight

    def install(self, adapter: HostAdapter, start: int) -> None:
        """See Engine."""
        if not isinstance(adapter, LoadedAdapter):
            raise Internal(f"expected an adapter that this engine read, got {type(adapter).__name__}")
        self._pool.install(adapter, start)

    def step(self, rows: Sequence[StepRow]) -> list[Computed]:
        """See Engine."""
        layout = lay_out(rows, BLOCK_TOKENS)
        needed = [index for index, row in enumerate(layout.kept_rows) if needs_logits(rows[row])]
        return outcome(rows, layout.kept_rows, needed, self._executor.run(layout, needed))

    def logits(self, rows: Sequence[StepRow]) -> tuple[list[int], Tensor]:
        """Run one batch: the indices of the rows that draw, and their logits [indices, vocabulary]."""
        layout = lay_out(rows, BLOCK_TOKENS)
        return layout.kept_rows, self._executor.run(layout, range(len(layout.kept))).logits


def _limits(model: PreTrainedModel, budgets: Budgets, row_bytes: int, of_block: int) -> EngineLimits:
    rows, blocks = budgets.pool_bytes // row_bytes, budgets.kv_bytes // of_block
    if rows < 1:
        raise InvalidInput(f"expected a pool of at least one row, {row_bytes} bytes, got {budgets.pool_bytes}")
    if blocks < selfcheck.BLOCKS:
        raise InvalidInput(
            f"expected a KV cache of at least {selfcheck.BLOCKS} blocks of {of_block} bytes, got {budgets.kv_bytes}"
        )
    made_for = getattr(model.config, "max_position_embeddings", None) or blocks * BLOCK_TOKENS
    context = min(budgets.max_context or made_for, made_for, blocks * BLOCK_TOKENS)
    return EngineLimits(rows, row_bytes, blocks, BLOCK_TOKENS, context, of_block)


def _weights(model: PreTrainedModel) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
