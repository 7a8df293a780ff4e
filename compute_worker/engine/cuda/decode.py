"""Decode steps as recordings: for each size of batch and of adapters in use, the whole forward with one launch.

Owns the memory that recordings read and write, and which steps they fit. Every other step (prompts, adapters that are
more than products, larger batches) runs in the executor that it was given. Does not know how recording works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from compute_worker.contract import EngineLimits
from compute_worker.engine.attention import attending
from compute_worker.engine.cuda.copies import pinned, settle
from compute_worker.engine.cuda.mixing import Mix, mix_of, terms_of
from compute_worker.engine.cuda.recording import Recorder, Work
from compute_worker.engine.cuda.tables import taken
from compute_worker.engine.cuda.varlen import Kernel, Places, VarlenStep, flash
from compute_worker.engine.executor import Executor, Scores, others
from compute_worker.engine.hooked import call
from compute_worker.engine.kv import KvCache
from compute_worker.engine.layout import Layout, lay_out
from compute_worker.engine.linear import Term
from compute_worker.engine.pool import RankPool

# Rows of a batch, filled up to the next of these: at most twice the work. 64 is the worker's default of MAX_BATCH.
BATCHES = (1, 2, 4, 8, 16, 32, 64)
# Pool rows in use, filled up likewise; gathering 1,024 of them reads and writes three times what using them does.
ROWS = (0, 16, 64, 256, 1024)
# Columns of a row's numbers: id, position, slot, keys seen; then its blocks.
_ID, _POSITION, _SLOT, _SEEN, _BLOCKS = range(5)


class RecordedExecutor:
    """Executor over a hooked model that attends as VARLEN does. Recordings are made here, once.

    inner: for the steps that no recording fits. limits: of the engine. Raises RuntimeError where the model's forward
    cannot be recorded.
    """

    nbytes = 0
    draft_tokens = 0  # a recorded step runs one token of each request

    @torch.inference_mode()
    def __init__(
        self,
        model: PreTrainedModel,
        kv: KvCache,
        pool: RankPool,
        limits: EngineLimits,
        inner: Executor,
        recorder: Recorder,
        *,
        kernel: Kernel = flash,
    ) -> None:
        self.name = f"{inner.name}-recorded"
        self._model, self._kv, self._pool, self._inner, self._kernel = model, kv, pool, inner, kernel
        # The rehearsal reaches into a second block, whatever requests may have.
        self._context = max(limits.max_context, 2 * kv.block_tokens)
        self._rows = _rows(limits.pool_rows)
        self._width = _BLOCKS + -(-self._context // kv.block_tokens)
        self._numbers = _Mirror(BATCHES[-1] * self._width, torch.int32, kv.device)
        self._used = _Mirror(self._rows[-1], torch.int64, kv.device)
        self._m = _Mirror(BATCHES[-1] * self._rows[-1], torch.float32, kv.device)
        self._foreign = _Mirror(len(pool.names) * self._rows[-1], torch.bool, kv.device)
        self._mixed: object = None
        self._logits, self._best = self._results()
        self._replay = {size: self._record(*size, recorder) for size in self._sizes()}

    @torch.inference_mode()
    def run(self, layout: Layout, needed: Sequence[int]) -> Scores:
        """See Executor."""
        tokens, mix = len(layout.ids), self._mix(layout)
        if mix is None:
            return self._inner.run(layout, needed)
        size = _at_least(tokens, BATCHES), _at_least(len(mix.rows), self._rows)
        self._numbers.fill(self._described(layout, size[0]))
        self._fill_mix(mix, size)
        self._replay[size]()
        plain = others(layout, needed)
        return Scores(self._logits[list(needed)], self._best[plain].tolist())

    def _mix(self, layout: Layout) -> Mix | None:
        """The step's adapters; None where no recording fits it."""
        tokens = len(layout.ids)
        decode = layout.kept == list(range(tokens)) and all(not part.chunk for part in layout.parts)
        if not decode or not 0 < tokens <= BATCHES[-1]:
            return None
        mix = mix_of(layout.runs, self._pool.residents)
        return mix if mix is not None and len(mix.rows) <= self._rows[-1] else None

    def _described(self, layout: Layout, batch: int) -> NDArray[np.int32]:
        """The numbers of each row, [batch, width]; rows that fill it up write to the spare block."""
        block = self._kv.block_tokens
        numbers = np.zeros((batch, self._width), np.int32)
        numbers[:, _SLOT] = self._kv.spare * block + np.arange(batch) % block
        numbers[:, _SEEN] = 1
        numbers[:, _BLOCKS] = self._kv.spare
        tokens = len(layout.ids)
        numbers[:tokens, _ID] = layout.ids
        numbers[:tokens, _POSITION] = layout.positions
        numbers[:tokens, _SLOT] = layout.slots
        numbers[:tokens, _SEEN] = np.array(layout.positions, np.int32) + 1
        for row, (blocks, _) in enumerate(layout.tables()):
            table = taken(blocks, layout.positions[row] + 1, block)
            numbers[row, _BLOCKS : _BLOCKS + len(table)] = table
        return numbers

    def _fill_mix(self, mix: Mix, size: tuple[int, int]) -> None:
        if self._mixed != (mix, size):
            rows = size[1]
            self._used.fill(np.array([*mix.rows, *[0] * (rows - len(mix.rows))], np.int64))
            self._m.fill(mix.weights(*size))
            self._foreign.fill(mix.foreign(len(self._pool.names), rows))
            self._mixed = mix, size

    def _forward(self, batch: int, rows: int) -> Tensor:
        """Logits [batch, vocabulary], of what lies in the mirrors alone."""
        numbers, device = self._numbers.there(batch, self._width), self._kv.device
        ids, positions, slots = (numbers[:, column].long() for column in (_ID, _POSITION, _SLOT))
        seen, blocks = numbers[:, _SEEN].contiguous(), numbers[:, _BLOCKS:].contiguous()
        begins = torch.arange(batch + 1, dtype=torch.int32, device=device)
        key_begins = torch.nn.functional.pad(seen.cumsum(0, dtype=torch.int32), (1, 0))
        places = Places(slots, begins, seen, key_begins, blocks, 1, self._context)
        self._pool.tell(self._terms(batch, rows))
        with attending(VarlenStep(self._kv, places, self._kernel)):
            return call(self._model, ids, positions, torch.arange(batch, device=device))

    def _terms(self, batch: int, rows: int) -> list[list[Term]]:
        layers = len(self._pool.names)
        if not rows:
            return [[]] * layers
        foreign = self._foreign.there(layers, rows)
        return [[term] for term in terms_of(self._used.there(rows), self._m.there(batch, rows), foreign)]

    def _record(self, batch: int, rows: int, recorder: Recorder) -> Work:
        def work() -> None:
            logits = self._forward(batch, rows)
            self._logits[:batch].copy_(logits)
            self._best[:batch].copy_(logits.argmax(-1))

        self._fill_for_nobody(batch, rows)
        return recorder(work)

    def _results(self) -> tuple[Tensor, Tensor]:
        """Memory for what recordings give: logits of the largest batch, and the most probable token of each row."""
        self._fill_for_nobody(1, 0)
        one = self._forward(1, 0)
        return one.new_empty(BATCHES[-1], one.shape[1]), torch.zeros(BATCHES[-1], dtype=torch.int64, device=one.device)

    def _fill_for_nobody(self, batch: int, rows: int) -> None:
        settle(self._kv.device)
        self._numbers.fill(self._described(lay_out([], self._kv.block_tokens), batch))
        self._fill_mix(Mix((), (), ()), (batch, rows))

    def _sizes(self) -> list[tuple[int, int]]:
        """The largest first: what lies between its kernels is large enough for all that follow."""
        return [(batch, rows) for batch in reversed(BATCHES) for rows in reversed(self._rows)]


class _Mirror:
    """Memory on the device that is filled from the host before each step."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._here = pinned(torch.zeros(size, dtype=dtype), device)
        self._there = torch.zeros(size, dtype=dtype, device=device)

    def there(self, *shape: int) -> Tensor:
        """The first numbers on the device, in this shape."""
        return self._there[: math.prod(shape)].view(shape)

    def fill(self, numbers: NDArray[np.generic]) -> None:
        """Send them. The step before has ended (see settle), so nobody reads either side."""
        here = self._here[: numbers.size]
        here.copy_(torch.from_numpy(numbers).view(-1))
        self._there[: numbers.size].copy_(here, non_blocking=True)


def _rows(pool_rows: int) -> tuple[int, ...]:
    """Those of ROWS that a pool can fill."""
    return tuple(rows for rows, below in zip(ROWS, (-1, *ROWS), strict=False) if below < pool_rows)


def _at_least(number: int, sizes: Sequence[int]) -> int:
    return next(size for size in sizes if size >= number)
