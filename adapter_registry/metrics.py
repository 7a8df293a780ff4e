"""The registry's own metrics: what its parts counted, under Prometheus' names.

Owns the names and the words. The parts count for themselves and do not know that anybody looks. Does
not know the wire; the calls' metrics are those of every server (lorry.rpc.metrics).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from adapter_registry.service.garbage import Collected
from adapter_registry.service.registry import Registry
from adapter_registry.service.stored import Traffic
from adapter_registry.service.upkeep import Held


@dataclass(slots=True)
class State:
    """What no part knows of itself. well: whether database and blob store answer. held: what is stored."""

    well: bool = True
    held: Held = field(default_factory=Held)


def registry_metrics(parts: Registry, state: State) -> Iterable[Metric]:
    """All of them, as they are now. Belongs to the event loop."""
    yield GaugeMetricFamily("lorry_registry_well", "1 where database and blob store answer, else 0", state.well)
    yield GaugeMetricFamily("lorry_registry_watchers", "Watches of the catalogue that run now", parts.watcher.watchers)
    yield GaugeMetricFamily(
        "lorry_registry_verdict_queue", "Bases whose stored verdicts may not be complete", parts.judging.queue
    )
    if state.held.measured:
        yield GaugeMetricFamily("lorry_registry_blobs", "Blobs stored, of all replicas", state.held.blobs)
        yield GaugeMetricFamily("lorry_registry_blob_stored_bytes", "Bytes of those blobs", state.held.size)
    yield from _traffic(parts.blobs.traffic)
    yield from _garbage(parts.collector.collected)


def _traffic(traffic: Traffic) -> Iterator[Metric]:
    moved = CounterMetricFamily(
        "lorry_registry_blob_bytes", "Bytes of blobs that came in or went out", None, ["direction"]
    )
    moved.add_metric(["in"], traffic.received)
    moved.add_metric(["out"], traffic.sent)
    yield moved
    yield GaugeMetricFamily("lorry_registry_uploads_in_flight", "Uploads that run now", traffic.uploading)
    uploads = CounterMetricFamily("lorry_registry_uploads", "Acknowledged uploads", None, ["existed"])
    uploads.add_metric(["no"], traffic.uploads - traffic.spared)
    uploads.add_metric(["yes"], traffic.spared)
    yield uploads
    yield CounterMetricFamily(
        "lorry_registry_upload_spared_bytes", "Bytes of uploads whose blob existed", traffic.spared_bytes
    )
    asked = CounterMetricFamily(
        "lorry_registry_find_missing_digests", "Digests asked for before a push", None, ["stored"]
    )
    asked.add_metric(["no"], traffic.asked - traffic.had)
    asked.add_metric(["yes"], traffic.had)
    yield asked


def _garbage(done: Collected) -> Iterator[Metric]:
    yield CounterMetricFamily("lorry_registry_gc_runs", "Collections of garbage by this replica", done.runs)
    yield CounterMetricFamily("lorry_registry_gc_swept_blobs", "Blobs that they deleted", done.blobs)
    yield CounterMetricFamily("lorry_registry_gc_swept_bytes", "Bytes of those blobs", done.size)
    yield CounterMetricFamily("lorry_registry_gc_expired_versions", "Versions that retention let go of", done.versions)
    yield CounterMetricFamily("lorry_registry_gc_swept_uploads", "Broken uploads that they deleted", done.uploads)
    yield CounterMetricFamily("lorry_registry_gc_forgotten_rows", "Old events, leases and audit entries", done.rows)
    if done.ended:
        yield GaugeMetricFamily(
            "lorry_registry_gc_last_run_timestamp_seconds", "When the last one ended", done.ended.timestamp()
        )
