"""What Prometheus and Grafana are told in docker/ exists: addresses, folders, metrics and their labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

from compute_worker.metrics import worker_metrics
from compute_worker.runtime.api import BudgetUse
from compute_worker.runtime.runtime import Figures
from compute_worker.runtime.tally import Busiest, Steps, Tally, Uses
from compute_worker.runtime.traffic import Traffic
from lorry.rpc.metrics import CallMetrics
from lorry.rpc.requestid import Call
from tests.support.registry import Client, running_registry, until
from tests.support.scraping import Scraped

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
PROMETHEUS = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
GRAFANA = DOCKER / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "lorry.json").read_text())
# Ours begin with it; everything else in an expression is a function, a label or a number.
NAME = re.compile(r"\blorry_\w+")


def panels() -> Iterator[tuple[str, str]]:
    """(Title, expression) of all graphs."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def names_of(metric: Metric) -> set[str]:
    """The names under which the samples of a metric come."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
    return {metric.name.removesuffix("_total") + ending for ending in endings}


def labels_of(metric: Metric) -> set[str]:
    return {label for sample in metric.samples for label in sample.labels}


def of_worker() -> list[Metric]:
    calls, call = CallMetrics(), Call("any", "id")
    calls.began(call)
    calls.ended(call)
    figures = Figures([BudgetUse("queue", 1, 0)], 0, {}, Steps(), Tally(), Busiest(Uses), Traffic())
    return [*calls.collect(), *worker_metrics(figures)]


async def of_registry(folder: Path) -> list[Metric]:
    scraped = Scraped()
    async with running_registry(folder, metrics_listen=scraped.address, gc_seconds=0.01) as target:
        async with Client(target) as client:
            await client.call("ListAdapters")

        async def complete() -> bool:
            shown = {metric.name for metric in await scraped.families()}
            return {"lorry_registry_gc_last_run_timestamp_seconds", "lorry_registry_blobs"} <= shown

        await until(complete)
        return await scraped.families()


async def test_every_metric_and_label_of_the_dashboard_exists(tmp_path: Path) -> None:
    known: dict[str, set[str]] = {}
    for metric in [*of_worker(), *await of_registry(tmp_path)]:
        for name in names_of(metric):
            known.setdefault(name, set()).update(labels_of(metric))
    used = {name for _, expression in panels() for name in NAME.findall(expression)}
    assert used
    assert used - known.keys() == set()
    for title, expression in panels():
        labels = {label for name in NAME.findall(expression) for label in known[name]} | {"job", "instance"}
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        chosen = {
            label for group in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)[=!]", group)
        }
        assert grouped | chosen <= labels, title


def test_every_metric_of_ours_is_on_the_dashboard_or_says_that_something_failed() -> None:
    shown = {name for _, expression in panels() for name in NAME.findall(expression)}
    assert [metric.name for metric in of_worker() if not names_of(metric) & shown] == ["lorry_worker_failed_steps"]


@pytest.mark.parametrize("service", ["registry", "worker"])
def test_prometheus_asks_every_replica_where_it_listens(service: str) -> None:
    (found,) = [job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == service]
    (discovery,) = found["dns_sd_configs"]
    listen = COMPOSE["services"][service]["environment"][f"LORRY_{service.upper()}_METRICS_LISTEN"]
    assert discovery["names"] == [service]
    assert listen == f"0.0.0.0:{discovery['port']}"


def test_metrics_are_not_published_outside_of_the_network() -> None:
    published: list[str] = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any(re.search(r"947[12]", port) for port in published)


def test_grafana_finds_its_data_and_its_dashboards() -> None:
    (source,) = provisioned("datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    sources = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])}
    assert sources == {source["uid"]}
    (provider,) = provisioned("dashboards/lorry.yaml")["providers"]
    folders = [volume.split(":") for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert ["./grafana/dashboards", provider["options"]["path"], "ro"] in folders
    assert ["./grafana/provisioning", "/etc/grafana/provisioning", "ro"] in folders


def provisioned(path: str) -> Any:
    return yaml.safe_load((GRAFANA / "provisioning" / path).read_text())


def test_panels_have_ids_and_places_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(set(places)) == len(places)


def test_images_name_a_version() -> None:
    images = [service["image"] for service in COMPOSE["services"].values() if "build" not in service]
    assert all(re.fullmatch(r"\$\{\w+:-[\w./-]+:[\w.-]*\d[\w.-]*\}", image) for image in images), images
