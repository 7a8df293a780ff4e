"""Which executor serves: the fast one, where it is there and reproduces the general one.

Owns the choice and the rehearsal before it: prompts in chunks and decode rows of mixed lengths, under
no adapter, a LoRA, a DoRA and a weighted pair with biases. Does not know how executors work.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from transformers import PreTrainedModel

from compute_worker.contract import ActiveAdapter, EngineLimits, Sampling, StepRow
from compute_worker.engine.attention import Attention, Rule
from compute_worker.engine.cuda.decode import BATCHES, RecordedExecutor
from compute_worker.engine.cuda.recording import Graphs
from compute_worker.engine.cuda.varlen import VARLEN
from compute_worker.engine.executor import Executor
from compute_worker.engine.fast import FastExecutor
from compute_worker.engine.host import HostModule, LoadedAdapter, Magnitude
from compute_worker.engine.kv import KvCache
from compute_worker.engine.layout import lay_out
from compute_worker.engine.linear import AdaptedLinear
from compute_worker.engine.native import WITH_PAIRS, NativeKernels, library
from compute_worker.engine.pool import RankPool
from compute_worker.engine.recognise import Surroundings, recognise
from compute_worker.engine.selfcheck import check_equal
from lorry.errors import UnsupportedModel

_log = logging.getLogger(__name__)

# Values of the setting.
AUTO, GENERAL = "auto", "transformers"
EXECUTORS = (AUTO, GENERAL)
# Of the rehearsal's adapters; at most 6 pool rows.
_RANKS = {"lora": 3, "dora": 1, "biased": 2}
# First pool row of each.
_STARTS = {"lora": 0, "dora": 3, "biased": 4}


@dataclass(frozen=True, slots=True)
class Served:
    """A hooked model with all that its executors share."""

    model: PreTrainedModel
    layers: Mapping[str, AdaptedLinear]
    kv: KvCache
    pool: RankPool
    rules: Mapping[int, Rule]
    limits: EngineLimits
    dtype: torch.dtype
    attention: Attention


def admitted(served: Served, general: Executor) -> Executor:
    """A faster executor where there is one that can serve this model, else `general`; the log says which and why."""
    return recorded(served, general) if served.model.device.type == "cuda" else _native(served, general)


def recorded(served: Served, general: Executor) -> Executor:
    """On a CUDA device: the general one, its decode steps recorded."""
    if served.attention is not VARLEN:
        _log.info("executor %s: steps are recorded over %s attention alone", general.name, VARLEN.name)
        return general
    try:
        fast = RecordedExecutor(served.model, served.kv, served.pool, served.limits, general, Graphs(served.kv.device))
        steps = list(_steps(served))
        _rehearse(served, fast, general, [*steps, *_crowds(steps[-1])])
    except (UnsupportedModel, RuntimeError) as reason:  # torch's capture raises RuntimeError
        _log.info("executor %s: %s", general.name, reason)
        return general
    _log.info("executor %s", fast.name)
    return fast


def _native(served: Served, general: Executor) -> Executor:
    """On the CPU: native kernels. They have copies of the weights that they read: the model's own are freed."""
    model = served.model
    try:
        kernels = _kernels(served)
        context = served.limits.max_context
        around = Surroundings(served.layers, served.kv, served.rules, served.dtype, context)
        parts = recognise(model, around, kernels)
        fast = FastExecutor(parts, kernels, served.pool, general)
        # Decode rows alone are nothing of their own to these kernels, and each step takes a tenth of a second.
        _rehearse(served, fast, general, islice(_steps(served), 2))
    except UnsupportedModel as reason:
        _log.info("executor %s: %s", general.name, reason)
        return general
    parts.take_over()
    _log.info("executor %s", fast.name)
    return fast


def _kernels(served: Served) -> NativeKernels:
    path, device = library(), served.model.device.type
    if path is None or device != "cpu" or served.dtype not in {torch.float32, torch.bfloat16}:
        raise UnsupportedModel(f"no native kernels for {served.dtype} on this {device}")
    # What is computed in float32 is rounded nowhere, whatever its adapters, keys and values are stored in.
    pairs = path.stem.endswith(WITH_PAIRS) and served.model.dtype == torch.bfloat16
    return NativeKernels(path, pairs=pairs, matrix_units=torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - as torch calls it


def _rehearse(served: Served, fast: Executor, general: Executor, steps: Iterable[Sequence[StepRow]]) -> None:
    for name, rank in _RANKS.items():
        if _STARTS[name] + rank <= served.limits.pool_rows:
            served.pool.install(_adapter(served.layers, name, rank), _STARTS[name])
    try:
        for rows in steps:
            layout = lay_out(rows, served.kv.block_tokens)
            everything = range(len(layout.kept))
            expected = general.run(layout, everything).logits
            for got, want in zip(fast.run(layout, everything).logits, expected, strict=True):
                check_equal(served.model, got, want, served.dtype)
    finally:
        served.pool.clear()


def _steps(served: Served) -> Iterator[list[StepRow]]:
    """Chunks that end within and at the end of a block, decode rows beside the rest of a prompt, decode rows alone."""
    block = served.kv.block_tokens
    lengths = (block, 3, 5, block + 2)
    requests = list(zip(_uses(served.limits.pool_rows), lengths, strict=False))[: served.limits.kv_blocks // 2]
    for part in range(3):
        rows = []
        for seat, (adapters, length) in enumerate(requests):
            ends = (0, length, length + 1 + seat % 2, length + 2 + seat % 2)
            begin, end = ends[part], ends[part + 1]
            tokens = [(7919 * index + seat) % served.model.config.vocab_size for index in range(end)]
            rows.append(StepRow(tokens[begin:], begin, (2 * seat, 2 * seat + 1), adapters, Sampling(), tokens, 0))
        yield rows


def _crowds(decode: Sequence[StepRow]) -> Iterator[list[StepRow]]:
    """A step of every size that is recorded, of those of the decode rows that are: under the LoRA, and under none."""
    plain = [row for row in decode if {adapter.start for adapter in row.adapters} <= {_STARTS["lora"]}]
    for size in BATCHES:
        yield [plain[place % len(plain)] for place in range(size)]


def _uses(pool_rows: int) -> Iterator[tuple[ActiveAdapter, ...]]:
    active = {
        name: ActiveAdapter(_STARTS[name], rank, 1.0)
        for name, rank in _RANKS.items()
        if _STARTS[name] + rank <= pool_rows
    }
    yield ()
    if "biased" in active:
        yield ActiveAdapter(0, _RANKS["lora"], 0.75), ActiveAdapter(_STARTS["biased"], _RANKS["biased"], -0.5)
    if "dora" in active:
        yield (active["dora"],)
    if "lora" in active:
        yield (active["lora"],)


def _adapter(layers: Mapping[str, AdaptedLinear], name: str, rank: int) -> LoadedAdapter:
    """Random, and large enough to show beside a base whose inputs are about 1."""
    noise = torch.Generator().manual_seed(rank)
    modules = {}
    for path, layer in layers.items():
        dtype, out = layer.a.dtype, layer.out_features
        a = torch.randn(rank, layer.in_features, generator=noise) * layer.in_features**-0.5
        b = torch.randn(rank, out, generator=noise) / 4
        bias = torch.randn(out, generator=noise) / 8 if name == "biased" else None
        gain = Magnitude(1 + torch.randn(out, generator=noise) / 8, None) if name == "dora" else None
        modules[path] = HostModule(a.to(dtype), b.to(dtype), bias, gain)
    return LoadedAdapter(modules)
