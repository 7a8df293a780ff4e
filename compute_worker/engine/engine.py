"""The engine: a base model of transformers, its rank pool and its KV cache, one batch a step.

Owns the sizes that budgets give and the course of a step. Does not know requests, names, or why
rows and blocks were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from compute_worker.contract import Drawn, EngineLimits, HostAdapter, StepRow
from compute_worker.engine import selfcheck
from compute_worker.engine.admission import AUTO, Served, admitted
from compute_worker.engine.executor import Executor
from compute_worker.engine.hooked import HookedExecutor, wrap
from compute_worker.engine.host import LoadedAdapter, read_adapter
from compute_worker.engine.kv import BLOCK_TOKENS, KvCache, block_bytes
from compute_worker.engine.layout import lay_out
from compute_worker.engine.pool import RankPool
from compute_worker.engine.sampler import draw, is_plain
from lorry.errors import Internal, InvalidInput
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
    Raises UnsupportedModel where the model's own forward cannot be reproduced, InvalidInput where a
    budget is too small.
    """

    def __init__(self, model: PreTrainedModel, budgets: Budgets, executor: str = AUTO) -> None:
        self._model = model
        self._base = base_facts(model)
        expected = selfcheck.alone(model)
        measured = selfcheck.measure(model)
        head = model.get_output_embeddings()
        self._layers = wrap(model, measured.targets)
        row_bytes = sum(layer.row_bytes for layer in self._layers.values())
        of_block = block_bytes(measured.shapes, model.dtype)
        self._limits = _limits(model, budgets, row_bytes, of_block)
        self._kv = KvCache(measured.shapes, self._limits.kv_blocks, model.dtype, model.device)
        self._pool = RankPool(
            self._layers,
            self._limits.pool_rows,
            next((layer for layer in self._layers.values() if layer.base is head), None),
        )
        self._executor: Executor = HookedExecutor(model, self._kv, self._pool)
        selfcheck.compare(model, self.logits, expected)
        if executor == AUTO:
            served = Served(model, self._layers, self._kv, self._pool, measured.rules, self._limits)
            self._executor = admitted(served, self._executor)

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
        return str(self._model.device.type)

    @property
    def dtype(self) -> str:
        """Type of the weights, for example `bfloat16`."""
        return str(self._model.dtype).removeprefix("torch.")

    @property
    def executor(self) -> str:
        """What runs its forwards: `transformers`, or `native-` and the kind of CPU."""
        return self._executor.name

    def read(self, weights: Path, facts: AdapterFacts) -> LoadedAdapter:
        """See Engine."""
        return read_adapter(weights, facts, self._base, self._layers)

    def install(self, adapter: HostAdapter, start: int) -> None:
        """See Engine."""
        if not isinstance(adapter, LoadedAdapter):
            raise Internal(f"expected an adapter that this engine read, got {type(adapter).__name__}")
        self._pool.install(adapter, start)

    def step(self, rows: Sequence[StepRow]) -> list[Drawn | None]:
        """See Engine."""
        layout = lay_out(rows, BLOCK_TOKENS)
        kept = [rows[index] for index in layout.kept_rows]
        needed = [index for index, row in enumerate(kept) if not is_plain(row.sample)]
        scores = self._executor.run(layout, needed)
        chosen = dict(zip(needed, draw(scores.logits, [kept[index] for index in needed]), strict=True))
        best = iter(scores.best)
        drawn: list[Drawn | None] = [None] * len(rows)
        for index, row in enumerate(layout.kept_rows):
            drawn[row] = chosen[index] if index in chosen else Drawn(next(best))
        return drawn

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
    return EngineLimits(rows, row_bytes, blocks, BLOCK_TOKENS, context)
