"""Metrics for Prometheus: those that every server of ours has, and how they are shown. Needs the `server` extra.

Owns the calls' figures and the HTTP endpoint, on a registry of its own, so that two servers in one
process do not mix theirs. What a service counts itself it gives as a function, which runs on the event
loop: what belongs to the loop needs no locks. Does not know what the figures mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lorry.rpc.requestid import Call
from lorry.rpc.serving import CannotListen

# From a row of a database to a long generation; Prometheus interpolates between neighbours, so each
# is 2 to 3 times the one before.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# An event loop that does not answer for so long is ill: the scrape fails, and Prometheus says so.
_PATIENCE_SECONDS = 5.0


class CallMetrics(Collector):
    """How long calls take and how they end, and how many run now."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "lorry_rpc_seconds",
            "Time that calls took, streams to their end",
            ["method", "code"],
            buckets=SECONDS,
            registry=None,
        )
        self._running = Gauge("lorry_rpc_in_flight", "Calls that run now", ["method"], registry=None)

    def began(self, call: Call) -> None:
        """A call runs."""
        self._running.labels(call.method).inc()

    def ended(self, call: Call) -> None:
        """It does not any more."""
        self._running.labels(call.method).dec()
        self._seconds.labels(call.method, call.code).observe(call.seconds)

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        return [*self._seconds.collect(), *self._running.collect()]


class OnLoop(Collector):
    """What `ask` tells, asked on the event loop that runs when this is made."""

    def __init__(self, ask: Callable[[], Iterable[Metric]]) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        """See Collector. Runs in a thread of the endpoint; raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(self._asked(), self._loop).result(_PATIENCE_SECONDS)

    async def _asked(self) -> list[Metric]:
        return list(self._ask())


@asynccontextmanager
async def exposing(listen: str | None, collectors: Sequence[Collector]) -> AsyncIterator[None]:
    """Show the metrics at `http://host:port/metrics` for the time of the block; nowhere where it is None.

    Raises CannotListen.
    """
    if listen is None:
        yield
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    host, _, port = listen.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise CannotListen(f"cannot listen on {listen} for metrics: {error.strerror or error}") from error
    try:
        yield
    finally:
        # In a thread: a scrape that runs may be waiting for this loop.
        await asyncio.to_thread(server.shutdown)
        server.server_close()
