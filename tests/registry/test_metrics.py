from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lorry.errors import AdapterNotFound
from lorry.format.digest import digest_of
from lorry.rpc.metrics import exposing
from lorry.rpc.serving import CannotListen
from lorry.v1 import admin_pb2, admin_pb2_grpc, blob_pb2, catalog_pb2
from tests.support.registry import DEADLINE, Client, registry_process, running_registry, until
from tests.support.scraping import Scraped, labelled

DATA = b"bytes of a blob"


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


@pytest.fixture
async def client(tmp_path: Path, scraped: Scraped) -> AsyncIterator[Client]:
    settings = {"metrics_listen": scraped.address, "keep_seconds": 0}
    async with running_registry(tmp_path, **settings) as target, Client(target) as client:
        yield client


async def test_calls_are_counted_by_method_and_code_and_timed(client: Client, scraped: Scraped) -> None:
    for _ in range(2):
        with pytest.raises(AdapterNotFound):
            await client.call("Resolve", adapter="nobody")
    samples = await scraped.samples()
    labels = {"method": "lorry.v1.CatalogService/Resolve", "code": "NOT_FOUND"}
    assert samples[labelled("lorry_rpc_seconds_count", **labels)] == 2
    assert samples[labelled("lorry_rpc_seconds_bucket", le="+Inf", **labels)] == 2
    assert 0 < samples[labelled("lorry_rpc_seconds_sum", **labels)] < 2 * DEADLINE


async def test_a_stream_runs_to_its_end_and_watchers_are_counted(client: Client, scraped: Scraped) -> None:
    watch = client.catalog.Watch(catalog_pb2.WatchRequest())
    await watch.initial_metadata()
    running = labelled("lorry_rpc_in_flight", method="lorry.v1.CatalogService/Watch")
    during = await scraped.samples()
    assert (during[running], during["lorry_registry_watchers"]) == (1, 1)
    watch.cancel()

    async def over() -> bool:
        after = await scraped.samples()
        return (after[running], after["lorry_registry_watchers"]) == (0, 0)

    await until(over)
    labels = {"method": "lorry.v1.CatalogService/Watch", "code": "CANCELLED"}
    assert (await scraped.samples())[labelled("lorry_rpc_seconds_count", **labels)] == 1


async def test_bytes_and_what_was_spared_are_counted(client: Client, scraped: Scraped) -> None:
    await client.put(DATA)
    await client.put(DATA)
    await client.get(digest_of(DATA))
    asked = [digest_of(DATA), digest_of(b"nobody has this")]
    await client.blobs.FindMissing(blob_pb2.FindMissingRequest(digests=asked), timeout=DEADLINE)
    samples, size = await scraped.samples(), len(DATA)
    assert samples[labelled("lorry_registry_blob_bytes_total", direction="in")] == size
    assert samples[labelled("lorry_registry_blob_bytes_total", direction="out")] == size
    assert samples[labelled("lorry_registry_uploads_total", existed="no")] == 1
    assert samples[labelled("lorry_registry_uploads_total", existed="yes")] == 1
    assert samples["lorry_registry_upload_spared_bytes_total"] == size
    assert samples[labelled("lorry_registry_find_missing_digests_total", stored="no")] == 1
    assert samples[labelled("lorry_registry_find_missing_digests_total", stored="yes")] == 1
    assert samples["lorry_registry_uploads_in_flight"] == 0


async def test_a_collection_of_garbage_is_counted_but_no_dry_run(client: Client, scraped: Scraped) -> None:
    await client.put(DATA)
    admin = admin_pb2_grpc.AdminServiceStub(client.channel)
    for dry_run in (True, False):
        await admin.CollectGarbage(admin_pb2.CollectGarbageRequest(dry_run=dry_run), timeout=DEADLINE)
    samples = await scraped.samples()
    assert samples["lorry_registry_gc_runs_total"] == 1
    assert samples["lorry_registry_gc_swept_blobs_total"] == 1
    assert samples["lorry_registry_gc_swept_bytes_total"] == len(DATA)
    assert samples["lorry_registry_gc_last_run_timestamp_seconds"] > 0


async def test_what_is_stored_is_counted_at_start(tmp_path: Path, scraped: Scraped) -> None:
    async with running_registry(tmp_path) as target, Client(target) as client:
        await client.put(DATA)
    async with running_registry(tmp_path, metrics_listen=scraped.address):

        async def counted() -> bool:
            samples = await scraped.samples()
            return (samples.get("lorry_registry_blobs"), samples.get("lorry_registry_blob_stored_bytes")) == (
                1,
                len(DATA),
            )

        await until(counted)


@pytest.mark.usefixtures("client")
async def test_health_and_the_verdict_queue_are_shown(scraped: Scraped) -> None:
    samples = await scraped.samples()
    assert (samples["lorry_registry_well"], samples["lorry_registry_verdict_queue"]) == (1, 0)
    assert samples["process_resident_memory_bytes"] > 0


@pytest.mark.usefixtures("client")
async def test_a_taken_address_is_refused_by_name(scraped: Scraped) -> None:
    with pytest.raises(CannotListen, match=re.escape(f"cannot listen on {scraped.address} for metrics")):
        async with exposing(scraped.address, []):
            pass


async def test_a_clean_stop_ends_within_its_grace_and_logs_no_error(tmp_path: Path, scraped: Scraped) -> None:
    environment = {
        "METRICS_LISTEN": scraped.address,
        "GRACE_SECONDS": "10",
        "GC_SECONDS": "0.05",
        "HEALTH_SECONDS": "0.05",
        "KEEP_SECONDS": "0",
    }
    with registry_process(
        tmp_path, **{f"LORRY_REGISTRY_{name}": value for name, value in environment.items()}
    ) as server:
        async with Client(server.target) as client:
            watch = client.catalog.Watch(catalog_pb2.WatchRequest())
            await watch.initial_metadata()

            async def collected() -> bool:
                return (await scraped.samples())["lorry_registry_gc_runs_total"] >= 1

            await until(collected)
            server.process.terminate()
            assert await asyncio.to_thread(server.process.wait, 10) == 0
    assert not re.search(r"ERROR|CRITICAL|Traceback|never awaited|was destroyed", server.log.read_text())
