"""A watch across the end of the registry that it is at; all else is told in tests/conformance."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry.errors import Draining
from lorry.rpc.calls import translated
from lorry.v1 import catalog_pb2
from tests.support.registry import DEADLINE, Client, running_registry

FIRST = "0"


async def test_a_watch_ends_with_draining_when_the_registry_stops_and_goes_on_at_the_next(tmp_path: Path) -> None:
    async with running_registry(tmp_path, grace_seconds=20) as target:
        client = Client(target)
        await client.register()
        call = client.catalog.Watch(catalog_pb2.WatchRequest(resume_token=FIRST), timeout=DEADLINE)
        seen = await call.read()
    with pytest.raises(Draining), translated():
        await call.read()
    await client.channel.close()
    async with running_registry(tmp_path) as target, Client(target) as client:
        await client.publish("pirate")
        going_on = catalog_pb2.WatchRequest(resume_token=seen.resume_token)
        call = client.catalog.Watch(going_on, timeout=DEADLINE)
        with translated():
            assert (await call.read()).WhichOneof("event") == "version_created"
        call.cancel()
