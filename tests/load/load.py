"""A load from beginning to end: a crowded pair, sixteen clients and who is in their way, then the verdict.

Owns the budgets, which are too small for everybody at once: pool, KV cache, host memory and batch. Does
not know what a client asks for, nor what is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.load.asking import ROUTES
from tests.load.clients import Client
from tests.load.meanings import Meanings, Pointer
from tests.load.meddling import Meddler
from tests.load.oracle import Oracle
from tests.load.record import Record
from tests.load.reference import Reference
from tests.load.stock import MOVING, Stock, alias_of
from tests.support.pair import Pair, running_pair
from tests.support.scraping import Scraped, labelled
from tests.support.worker import tiny_llama

CLIENTS = 16
# 64 rows of 4,364 bytes for some 130 ranks; what routes hold is at most a third of them.
_POOL_BYTES = 64 * 4364
# 32 blocks of 16 tokens: five requests at their longest, of sixteen.
_KV_BYTES = 32 * 4096
# A dozen adapters in host memory, and as many on disk: the others come from the registry again.
_HOST_BYTES = 100_000
_DISK_BYTES = 120_000
_CROWDED = {
    "pool_bytes": _POOL_BYTES,
    "kv_bytes": _KV_BYTES,
    "host_bytes": _HOST_BYTES,
    "disk_bytes": _DISK_BYTES,
    "max_batch": 12,
    "prefill_tokens": 48,
    "wait_seconds": 10.0,
}
_COUNTED = {
    "preemptions": labelled("lorry_worker_preemptions_total"),
    "pool evictions": labelled("lorry_worker_cache_evictions_total", tier="pool"),
    "host evictions": labelled("lorry_worker_cache_evictions_total", tier="host"),
    "disk evictions": labelled("lorry_worker_cache_evictions_total", tier="disk"),
    "prompt tokens from the cache": labelled("lorry_worker_tokens_total", kind="cached"),
}


@dataclass(frozen=True)
class Result:
    """worker: what it counted itself, by name. close: tokens at which rounding decided."""

    record: Record
    worker: Mapping[str, float]
    close: int

    def __str__(self) -> str:
        return self.record.figures(self.close, self.worker)


async def loaded(folder: Path, model: Path, seed: int, outputs: int) -> Result:
    """Load a worker until so many answers have come, and judge each of them."""
    record, scraped = Record(outputs), Scraped()
    async with running_pair(folder, model, metrics_listen=scraped.address, **_CROWDED) as pair:
        stock = await Stock.publish(pair.registry, folder / "stock")
        await _run(pair, stock, record, seed)
        samples = await scraped.samples()
    reference = Reference(tiny_llama(), stock.folders, stock.digests)
    for number, (digest, recipe) in enumerate(record.recipes.items()):
        reference.make(recipe, digest, folder / "merged" / str(number))
    oracle = Oracle(reference, pair.serving.tokenizer)
    _judge(record, oracle)
    return Result(record, {name: samples[sample] for name, sample in _COUNTED.items()}, oracle.close)


async def _run(pair: Pair, stock: Stock, record: Record, seed: int) -> None:
    aliases = {alias_of(name): Pointer(stock.digests[f"{name}@1"]) for name in MOVING}
    meanings = Meanings(stock.digests, aliases, {route: Pointer(((),)) for route in ROUTES})
    for route in ROUTES:
        await pair.worker.switch([], route=route)
    async with asyncio.TaskGroup() as group:
        group.create_task(Meddler(pair.registry, pair.worker, meanings, record, seed).run())
        for number in range(CLIENTS):
            group.create_task(Client(pair.worker, meanings, record, seed, number).run())


def _judge(record: Record, oracle: Oracle) -> None:
    record.wrong += filter(None, map(oracle.wrong, record.outputs))
    record.wrong += filter(None, map(oracle.wrong_score, record.scores))
