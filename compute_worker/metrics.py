"""The worker's own metrics: what its runtime counted, under Prometheus' names.

Owns the names and the words. The runtime counts for itself and does not know that anybody looks. Does
not know the wire; the calls' metrics are those of every server (lorry.rpc.metrics).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from compute_worker.runtime.api import Tier
from compute_worker.runtime.runtime import Figures
from compute_worker.runtime.tally import Busiest, Spread, Steps, Tally

_HELD = (Tier.DISK, Tier.HOST, Tier.POOL)
# Where an adapter was found that was nowhere near the base.
_REGISTRY = "registry"


def worker_metrics(figures: Figures) -> Iterable[Metric]:
    """All of them, as they are now."""
    used = GaugeMetricFamily("lorry_worker_budget_used", "What is used of a budget, in its own unit", None, ["budget"])
    limit = GaugeMetricFamily("lorry_worker_budget_limit", "The budget, in its own unit", None, ["budget"])
    for budget in figures.budgets:
        used.add_metric([budget.name], budget.used)
        limit.add_metric([budget.name], budget.limit)
    yield from (used, limit)
    held = GaugeMetricFamily("lorry_worker_adapters", "Adapters by the fastest tier that has them", None, ["tier"])
    for tier in _HELD:
        held.add_metric([tier], figures.tiers.get(tier, 0))
    yield held
    yield GaugeMetricFamily("lorry_worker_requests_running", "Requests in the batch", figures.running)
    yield from _steps(figures.steps)
    yield from _tiers(figures.tally)
    yield _requests(figures.requests)


def _steps(steps: Steps) -> Iterator[Metric]:
    yield _histogram("lorry_worker_step_seconds", "Time of the engine's steps", {(): steps.seconds})
    yield _histogram("lorry_worker_step_requests", "Requests in a step", {(): steps.rows})
    tokens = CounterMetricFamily("lorry_worker_tokens", "Tokens of prompts, and drawn ones", None, ["kind"])
    tokens.add_metric(["prompt"], steps.prompt)
    tokens.add_metric(["drawn"], steps.drawn)
    yield tokens
    yield CounterMetricFamily("lorry_worker_failed_steps", "Steps that ended in a defect", steps.failed)


def _tiers(tally: Tally) -> Iterator[Metric]:
    found = CounterMetricFamily("lorry_worker_cache_lookups", "Where adapters were when asked for", None, ["tier"])
    evicted = CounterMetricFamily("lorry_worker_cache_evictions", "Adapters, on disk files, evicted", None, ["tier"])
    for tier in reversed(_HELD):
        found.add_metric([tier], tally.found[tier])
        evicted.add_metric([tier], tally.evicted[tier])
    found.add_metric([_REGISTRY], tally.found[Tier.GONE])
    yield from (found, evicted)
    spreads: dict[tuple[Tier, ...], Spread] = {(tier,): tally.loads[tier] for tier in _HELD}
    yield _histogram("lorry_worker_load_seconds", "Time to bring an adapter, to disk a file, there", spreads, ["tier"])


def _requests(requests: Busiest) -> Metric:
    family = CounterMetricFamily(
        "lorry_worker_adapter_requests", "Generations by adapter; the less busy ones together", None, ["adapter"]
    )
    for digest, count in requests.counts.items():
        family.add_metric([digest], count)
    family.add_metric(["other"], requests.others)
    return family


def _histogram(
    name: str, about: str, spreads: dict[tuple[Tier, ...], Spread], labels: Iterable[str] = ()
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, about, labels=list(labels))
    for values, spread in spreads.items():
        sums = list(accumulate(spread.counts))
        bounds = [*map(str, map(float, spread.bounds)), "+Inf"]
        family.add_metric(list(values), list(zip(bounds, sums, strict=True)), spread.total)
    return family
