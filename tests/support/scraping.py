"""What a server shows to Prometheus, asked for over HTTP as Prometheus does.

Does not know any metric.
"""

from __future__ import annotations

import asyncio
import urllib.request
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.s3 import free_port

_SECONDS = 30.0


@dataclass(frozen=True)
class Scraped:
    """`address`: what a test gives to the server as its `metrics_listen`."""

    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    async def families(self) -> list[Metric]:
        """Everything that is shown."""
        return list(text_string_to_metric_families(await asyncio.to_thread(self._read)))

    async def samples(self) -> dict[str, float]:
        """Everything that is shown, by the spelling of `labelled`."""
        found = [sample for family in await self.families() for sample in family.samples]
        return {labelled(sample.name, **sample.labels): sample.value for sample in found}

    def _read(self) -> str:
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=_SECONDS) as answer:
            return str(answer.read().decode())


def labelled(name: str, **labels: str) -> str:
    """One of the numbers of a metric."""
    return f"{name}{sorted(labels.items()) or ''}"
