"""The engine: a base model of transformers, its rank pool and its KV cache, one batch a step.

Owns the sizes that budgets give and the course of a step. Does not know requests, names, or why
rows and blocks were chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from compute_worker.contract import Computed, EngineLimits, HostAdapter, StepRow
from compute_worker.engine import selfcheck
from compute_worker.engine.admission import AUTO, Served, admitted
from compute_worker.engine.attention import GATHERED, Attention
from compute_worker.engine.cuda.copies import settle
from compute_worker.engine.cuda.varlen import attentions
from compute_worker.engine.executor import Executor
from compute_worker.engine.hooked import HookedExecutor, wrap
from compute_worker.engine.host import LoadedAdapter
from compute_worker.engine.kv import KvCache, block_bytes
from compute_worker.engine.layout import lay_out
from compute_worker.engine.masks import check_masks
from compute_worker.engine.memory import give_back
from compute_worker.engine.outcome import needs_logits, outcome
from compute_worker.engine.pool import RankPool
from compute_worker.engine.positions import check_positions
from compute_worker.engine.reach import reach_of
from compute_worker.engine.reading import Reading, read_file
from compute_worker.engine.replaced import unreachable
from compute_worker.engine.rows import Spare
from compute_worker.engine.table import lay_tables
from lorry.checkpoint import parts
from lorry.errors import Internal, InvalidInput, UnsupportedModel
from lorry.fingerprint import base_facts
from lorry.format.base import BaseFacts
from lorry.format.facts import AdapterFacts

_log = logging.getLogger(__name__)


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
        candidates = attentions(model, self._stored) if executor == AUTO else (GATHERED,)
        expected = {each: selfcheck.alone(model, each.block_tokens) for each in candidates}
        measured = selfcheck.measure(model)
        head = model.get_output_embeddings()
        self._layers = wrap(model, measured.targets)
        lay_tables(model, measured.plain)
        self._reach = reach_of(model, measured, self._layers, self._stored)
        self._rows = _pool_rows(budgets, self._reach.row_bytes)
        of_head = next((layer for layer in self._layers.values() if layer.base is head), None)
        self._pool = RankPool(self._layers, self._rows, of_head, self._stored)
        self._spare = Spare()
        self._executor: Executor
        self._limits: EngineLimits
        self._attend(budgets, measured, expected)
        if executor == AUTO:
            shared = self._layers, self._kv, self._pool
            served = Served(model, *shared, measured.rules, self._limits, self._stored, self._attention)
            self._executor = admitted(served, self._executor)
        self._limits = replace(
            self._limits,
            base_bytes=_weights(model) + self._executor.nbytes,
            draft_tokens=self._executor.draft_tokens,
        )

    def _attend(
        self, budgets: Budgets, measured: selfcheck.Measured, expected: Mapping[Attention, Sequence[Tensor]]
    ) -> None:
        """Take the first attention that reproduces the model. expected: its logits, for each that may."""
        *faster, last = expected
        for attention in faster:
            try:
                self._attend_by(attention, budgets, measured, expected[attention])
            except (InvalidInput, UnsupportedModel, RuntimeError) as reason:  # torch's kernels raise RuntimeError
                _log.warning("attention %s is not taken: %s", attention.name, reason)
            else:
                return
        self._attend_by(last, budgets, measured, expected[last])

    def _attend_by(
        self, attention: Attention, budgets: Budgets, measured: selfcheck.Measured, expected: Sequence[Tensor]
    ) -> None:
        model, tokens = self._model, attention.block_tokens
        attention.check(measured.shapes, measured.rules)
        of_block = block_bytes(measured.shapes, self._stored, tokens)
        kv_blocks, context = _kv_limits(model, budgets, of_block, attention)
        check_masks(model.config.model_type, measured.masks, measured.rules, context)
        check_positions(model, context)
        kv = KvCache(measured.shapes, kv_blocks + attention.spare, self._stored, model.device, block_tokens=tokens)
        executor = HookedExecutor(model, kv, self._pool, attention)
        selfcheck.compare(model, partial(_logits, executor, tokens), expected, self._stored, tokens)
        self._attention, self._kv, self._executor = attention, kv, executor
        self._limits = EngineLimits(self._rows, self._reach.row_bytes, kv_blocks, tokens, context, of_block)

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
        """What runs its forwards: `native-` and the kind of CPU, or `transformers` and what CUDA adds to it."""
        return self._executor.name

    def reading(self, facts: AdapterFacts) -> Reading:
        """See Engine."""
        return Reading(facts, self._base, self._reach, self._spare)

    def read(self, weights: Path, facts: AdapterFacts) -> LoadedAdapter:
        """An adapter out of a file, for who has it at hand. Raises as the parts of Engine.reading, OSError."""
        return read_file(weights, self.reading(facts))

    def weight(self, module: str) -> NDArray[np.float32]:
        """See Engine."""
        if module in self._reach.embeddings:
            turned: NDArray[np.float32] = self._reach.embeddings[module].rows().T.float().cpu().numpy()
            return turned
        if module not in self._layers:
            raise unreachable(module)
        weight: NDArray[np.float32] = self._layers[module].rows().float().cpu().numpy()
        return weight

    def install(self, adapter: HostAdapter, start: int) -> None:
        """See Engine."""
        if not isinstance(adapter, LoadedAdapter):
            raise Internal(f"expected an adapter that this engine read, got {type(adapter).__name__}")
        self._pool.install(adapter, start)

    def prepare(self) -> None:
        """See Engine."""
        self._spare.prepare()
        self._pool.prepare()

    def tidy(self) -> None:
        """See Engine."""
        give_back()

    def extend(self, blocks: int) -> bool:
        """See Engine."""
        return self._kv.extend(blocks)

    def step(self, rows: Sequence[StepRow]) -> list[Computed]:
        """See Engine."""
        layout = lay_out(rows, self._kv.block_tokens)
        needed = [index for index, row in enumerate(layout.kept_rows) if needs_logits(rows[row])]
        computed = outcome(rows, layout.kept_rows, needed, self._executor.run(layout, needed))
        settle(self._kv.device)
        return computed

    def logits(self, rows: Sequence[StepRow]) -> tuple[list[int], Tensor]:
        """Run one batch: the indices of the rows that draw, and their logits [indices, vocabulary]."""
        return _logits(self._executor, self._kv.block_tokens, rows)


def _logits(executor: Executor, block_tokens: int, rows: Sequence[StepRow]) -> tuple[list[int], Tensor]:
    layout = lay_out(rows, block_tokens)
    return layout.kept_rows, executor.run(layout, range(len(layout.kept))).logits


def _pool_rows(budgets: Budgets, row_bytes: int) -> int:
    rows = budgets.pool_bytes // row_bytes
    if rows < 1:
        raise InvalidInput(f"expected a pool of at least one row, {row_bytes} bytes, got {budgets.pool_bytes}")
    return rows


def _kv_limits(model: PreTrainedModel, budgets: Budgets, of_block: int, attention: Attention) -> tuple[int, int]:
    """KV blocks that requests may have, and tokens of a request."""
    blocks, least = budgets.kv_bytes // of_block - attention.spare, selfcheck.BLOCKS
    if blocks < least:
        least += attention.spare
        raise InvalidInput(
            f"expected a KV cache of at least {least} blocks of {of_block} bytes, got {budgets.kv_bytes}"
        )
    tokens = blocks * attention.block_tokens
    made_for = getattr(model.config, "max_position_embeddings", None) or tokens
    return blocks, min(budgets.max_context or made_for, made_for, tokens)


def _weights(model: PreTrainedModel) -> int:
    return sum(part.nbytes for tensor in (*model.parameters(), *model.buffers()) for part in parts(tensor))
