"""The worker's own metrics: what its runtime counted, under Prometheus' names.

Owns the names and the words. The runtime counts for itself and does not know that anybody looks. Does
not know the wire; the calls' metrics are those of every server (lorry.rpc.metrics).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from compute_worker.runtime.api import Tier
from compute_worker.runtime.runtime import Figures
from compute_worker.runtime.tally import Busiest, Spread, Steps, Tally, Uses
from compute_worker.runtime.traffic import OTHERS, Traffic

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
    yield from _routes(figures.traffic)


def _steps(steps: Steps) -> Iterator[Metric]:
    yield _histogram("lorry_worker_step_seconds", "Time of the engine's steps", {(): steps.seconds})
    yield _histogram("lorry_worker_step_requests", "Requests in a step", {(): steps.rows})
    tokens = CounterMetricFamily("lorry_worker_tokens", "Tokens by what was done about them", None, ["kind"])
    tokens.add_metric(["prompt"], steps.prompt)
    tokens.add_metric(["cached"], steps.cached)
    tokens.add_metric(["recomputed"], steps.recomputed)
    tokens.add_metric(["drawn"], steps.drawn)
    tokens.add_metric(["drafted"], steps.drafted)
    tokens.add_metric(["accepted"], steps.accepted)
    yield tokens
    yield CounterMetricFamily("lorry_worker_preemptions", "Requests that lost their KV for a while", steps.preempted)
    yield CounterMetricFamily("lorry_worker_failed_steps", "Steps that ended in a defect", steps.failed)


def _tiers(tally: Tally) -> Iterator[Metric]:
    found = CounterMetricFamily("lorry_worker_cache_lookups", "Where adapters were when asked for", None, ["tier"])
    evicted = CounterMetricFamily("lorry_worker_cache_evictions", "Adapters, on disk files, evicted", None, ["tier"])
    for tier in reversed(_HELD):
        found.add_metric([tier], tally.found[tier])
        evicted.add_metric([tier], tally.evicted[tier])
    found.add_metric([_REGISTRY], tally.found[Tier.GONE])
    yield from (found, evicted)
    spreads: dict[tuple[str, ...], Spread] = {(tier,): tally.loads[tier] for tier in _HELD}
    yield _histogram("lorry_worker_load_seconds", "Time to bring an adapter, to disk a file, there", spreads, ["tier"])


def _requests(requests: Busiest[str, Uses]) -> Metric:
    family = CounterMetricFamily(
        "lorry_worker_adapter_requests", "Generations by adapter; the less busy ones together", None, ["adapter"]
    )
    for digest, uses in requests.named.items():
        family.add_metric([digest], uses.count)
    family.add_metric(["other"], requests.others.count)
    return family


def _routes(traffic: Traffic) -> Iterator[Metric]:
    labels = ["route", "branch", "selection"]
    count = CounterMetricFamily("lorry_worker_route_requests", "Generations by route that ended", None, labels)
    errors = CounterMetricFamily("lorry_worker_route_errors", "Those of them that ended in an error", None, labels)
    tokens = CounterMetricFamily("lorry_worker_route_tokens", "Tokens of their answers", None, labels)
    figures = {**traffic.by_label.named, OTHERS: traffic.by_label.others}
    for label, requests in figures.items():
        count.add_metric(label, requests.count)
        errors.add_metric(label, requests.errors)
        tokens.add_metric(label, requests.tokens)
    yield from (count, errors, tokens)
    spreads: dict[tuple[str, ...], Spread] = {label: requests.seconds for label, requests in figures.items()}
    yield _histogram("lorry_worker_route_seconds", "Time of generations by route", spreads, labels)


def _histogram(
    name: str, about: str, spreads: Mapping[tuple[str, ...], Spread], labels: Iterable[str] = ()
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, about, labels=list(labels))
    for values, spread in spreads.items():
        sums = list(accumulate(spread.counts))
        bounds = [*map(str, map(float, spread.bounds)), "+Inf"]
        family.add_metric(list(values), list(zip(bounds, sums, strict=True)), spread.total)
    return family
