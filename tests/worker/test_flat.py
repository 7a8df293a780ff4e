"""Adapters that come and go for a long time leave nothing behind: a thousand of them through a pool of 32."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.pair import Pair, running_pair
from tests.support.worker import SHAPES

_POOL = 32
_RANK = 2
_ROW_BYTES = 4364
_ADAPTER_BYTES = _RANK * 4 * sum(map(sum, SHAPES.values()))


@dataclass(frozen=True)
class Footprint:
    """What this process has. `files`: in the worker's cache folder."""

    memory: int
    descriptors: int
    threads: int
    files: int

    @classmethod
    def of(cls, pair: Pair) -> Footprint:
        gc.collect()
        process = psutil.Process()
        files = sum(path.is_file() for path in (pair.folder / "worker").rglob("*"))
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads(), files)


@pytest.mark.parametrize(
    ("adapters", "loads"), [(48, 400), pytest.param(1_000, 10_000, marks=pytest.mark.long)], ids=["short", "long"]
)
async def test_adapters_cycle_through_a_pool_of_32_in_flat_memory(
    tmp_path: Path, model: Path, adapters: int, loads: int
) -> None:
    budgets = {"pool_bytes": _POOL * _RANK * _ROW_BYTES, "host_bytes": _POOL // 2 * _ADAPTER_BYTES}
    async with running_pair(tmp_path, model, **budgets) as pair:
        names = [f"a{number}" for number in range(adapters)]
        exact = [
            f"{name}@{(await pair.publish(name, rank=_RANK, seed=seed)).digest}" for seed, name in enumerate(names)
        ]
        draw = random.Random(1)  # noqa: S311 - a repeatable order
        for reference in exact:
            await pair.worker.load(reference)
        for reference in draw.choices(exact, k=loads // 2):  # every cache and free list has its size behind this
            await pair.worker.load(reference)
        before = Footprint.of(pair)
        for reference in draw.choices(exact, k=loads // 2):
            await pair.worker.load(reference)
        after = Footprint.of(pair)
        assert await pair.used("pool_rows") == _POOL * _RANK
        assert await pair.used("host_bytes") <= budgets["host_bytes"]
        print(f"{adapters} adapters, {loads} loads: {before.memory / 1e6:.1f} MB, then {after.memory / 1e6:.1f} MB")  # noqa: T201
        assert after.memory < before.memory * 1.02
        assert (after.descriptors, after.files) == (before.descriptors, before.files)
        # Pools of threads grow to their size when they are first crowded; what leaks one a load has hundreds.
        assert after.threads <= before.threads + 4
