from __future__ import annotations

from typing import Any

import pytest

from lorry.errors import AdapterNotFound, BaseNotFound, InvalidAdapter, InvalidInput, LorryError, UnsupportedAdapter
from lorry.format.header import header_length
from lorry.v1 import catalog_pb2
from tests.support.adapters import BASE_NAME, MODULES, adapter_bytes, base_for
from tests.support.registry import Client


def outline(files: tuple[bytes, bytes] | None = None) -> catalog_pb2.AdapterOutline:
    config, weights = files or adapter_bytes()
    head = weights[: header_length(weights[:8])]
    return catalog_pb2.AdapterOutline(config_json=config, safetensors_header=head, weights_size_bytes=len(weights))


async def test_an_outline_that_fits_is_compatible_without_a_byte_of_weights(client: Client) -> None:
    await client.register()
    answer = await client.call("CheckCompatibility", outline=outline(), base_model=BASE_NAME)
    assert (answer.compatible, list(answer.findings)) == (True, [])


async def test_a_published_version_is_judged_against_any_base(client: Client) -> None:
    await client.register()
    await client.publish("pirate")
    smaller = base_for({name: (4, out, rank) for name, (_, out, rank) in MODULES.items()}, seed=1)
    await client.register(smaller, "smaller")
    fits = await client.call("CheckCompatibility", adapter="pirate@1", base_model=BASE_NAME)
    assert fits.compatible
    answer = await client.call("CheckCompatibility", adapter="pirate", base_model="smaller")
    assert not answer.compatible
    codes = {(finding.code, finding.module) for finding in answer.findings if not finding.warning}
    assert codes == {("BASE_MISMATCH", ""), *(("SHAPE_MISMATCH", name) for name in MODULES)}


async def test_an_outline_of_an_unknown_base_is_compatible_with_a_remark(client: Client) -> None:
    await client.register()
    stranger = outline(adapter_bytes(base_name="somebody/elses"))
    answer = await client.call("CheckCompatibility", outline=stranger, base_model=BASE_NAME)
    assert answer.compatible
    assert [(finding.code, finding.warning) for finding in answer.findings] == [("BASE_UNVERIFIED", True)]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"outline": outline(), "base_model": "nothing"}, BaseNotFound),
        ({"outline": outline()}, InvalidInput),
        ({"base_model": BASE_NAME}, InvalidInput),
        ({"adapter": "nobody@1", "base_model": BASE_NAME}, AdapterNotFound),
        ({"outline": catalog_pb2.AdapterOutline(), "base_model": BASE_NAME}, InvalidAdapter),
        ({"outline": outline(adapter_bytes(config={"use_qalora": True})), "base_model": BASE_NAME}, UnsupportedAdapter),
    ],
)
async def test_a_question_without_an_answer_is_refused(
    client: Client, fields: dict[str, Any], error: type[LorryError]
) -> None:
    await client.register()
    with pytest.raises(error) as caught:
        await client.call("CheckCompatibility", **fields)
    assert type(caught.value) is error
