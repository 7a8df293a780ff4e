from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from lorry.errors import AdapterNotFound, Unauthenticated
from lorry.registry import RegistryClient
from lorry.rpc import logs
from tests.support.registry import registry_process

FIELDS = {"time", "level", "logger", "message", "request_id", "method", "principal", "code", "ms", "peer"}


async def test_json_has_a_document_a_line_with_the_call_that_it_was_written_in(tmp_path: Path) -> None:
    with registry_process(tmp_path, LORRY_REGISTRY_LOG_FORMAT="json") as server:
        async with RegistryClient(server.target) as client:
            with pytest.raises(AdapterNotFound) as caught:
                await client.resolve("nobody")
        server.process.terminate()
        server.process.wait(15)
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (call,) = [line for line in lines if line["logger"] == "lorry.access"]
    assert call.keys() >= FIELDS
    assert (call["method"], call["principal"]) == ("lorry.v1.CatalogService/Resolve", "anonymous")
    assert (call["code"], call["level"]) == ("NOT_FOUND", "INFO")
    assert call["request_id"] == caught.value.request_id


async def test_text_ends_with_the_same_facts_and_calls_can_be_left_out(tmp_path: Path) -> None:
    environment = {"LORRY_REGISTRY_AUTH": "required", "LORRY_REGISTRY_ACCESS_LOG": "false"}
    with registry_process(tmp_path, **environment) as server:
        async with RegistryClient(server.target) as client:
            with pytest.raises(Unauthenticated) as caught:
                await client.resolve("nobody")
        server.process.terminate()
        server.process.wait(15)
    (line,) = [line for line in server.log.read_text().splitlines() if "lorry.access" in line]
    assert "WARNING lorry.access refused: UNAUTHENTICATED in " in line
    assert f"request_id={caught.value.request_id} method=lorry.v1.CatalogService/Resolve peer=" in line


def test_who_has_set_up_logging_keeps_it() -> None:
    before = list(logging.getLogger().handlers)
    logs.set_up("json")
    assert logging.getLogger().handlers == before
