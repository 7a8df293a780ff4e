from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lorry.errors import AdapterNotFound
from lorry.rpc.logs import AccessLog
from lorry.rpc.requestid import Call
from tests.support.pair import Pair, answer, running_pair
from tests.support.scraping import Scraped, labelled


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


@pytest.fixture
async def pair(tmp_path: Path, model: Path, scraped: Scraped) -> AsyncIterator[Pair]:
    async with running_pair(tmp_path, model, metrics_listen=scraped.address) as pair:
        yield pair


async def test_a_generation_shows_in_every_figure(pair: Pair, scraped: Scraped) -> None:
    version = await pair.publish("pirate", rank=3)
    await pair.answer(["pirate"], length=4)
    await pair.answer(["pirate"], length=4)
    samples = await scraped.samples()
    own = 1  # a token that the worker drew to see that it can
    generated = {"method": "lorry.v1.InferenceService/Generate", "code": "OK"}
    assert samples[labelled("lorry_rpc_seconds_count", **generated)] == 2
    assert samples[labelled("lorry_worker_adapter_requests_total", adapter=version.digest)] == 2
    assert samples[labelled("lorry_worker_tokens_total", kind="drawn")] == 8 + own
    assert samples["lorry_worker_preemptions_total"] == 0
    assert samples["lorry_worker_step_seconds_count"] == 8 + own
    assert samples[labelled("lorry_worker_step_requests_bucket", le="1.0")] == 8 + own
    assert samples[labelled("lorry_worker_cache_lookups_total", tier="registry")] == 1
    assert samples[labelled("lorry_worker_cache_lookups_total", tier="pool")] == 1
    assert samples[labelled("lorry_worker_load_seconds_count", tier="disk")] == 2
    assert samples[labelled("lorry_worker_adapters", tier="pool")] == 1
    assert samples[labelled("lorry_worker_budget_used", budget="pool_rows")] == 3
    assert samples[labelled("lorry_worker_budget_used", budget="queue")] == 0


async def test_a_routes_generations_show_by_branch_and_selection(pair: Pair, scraped: Scraped) -> None:
    version = await pair.publish("pirate")
    route = await pair.worker.split({"plain": (1.0, "pirate")}, route="tour")
    await answer(pair.worker, route="tour", length=4)
    samples = await scraped.samples()
    labels = {"route": "tour", "branch": "plain", "selection": version.digest}
    assert route.targets[0].selection_digest == version.digest
    assert samples[labelled("lorry_worker_route_requests_total", **labels)] == 1
    assert samples[labelled("lorry_worker_route_tokens_total", **labels)] == 4
    assert samples[labelled("lorry_worker_route_errors_total", **labels)] == 0
    assert samples[labelled("lorry_worker_route_seconds_count", **labels)] == 1


async def test_the_registry_is_asked_in_the_name_of_the_request_that_the_worker_was_asked(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, str] = {}
    tell = AccessLog.ended

    def remember(log: AccessLog, call: Call) -> None:
        asked[call.method] = call.request_id
        tell(log, call)

    monkeypatch.setattr(AccessLog, "ended", remember)
    with pytest.raises(AdapterNotFound) as caught:
        await pair.worker.load("nobody")
    assert asked["lorry.v1.ResidencyService/Load"] == caught.value.request_id
    assert asked["lorry.v1.CatalogService/Resolve"] == caught.value.request_id
