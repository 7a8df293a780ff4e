from __future__ import annotations

import os
import stat

import pytest
from lorry.errors import InvalidAdapter, UnsupportedAdapter
from lorry.format.digest import digest_of
from lorry.v1 import types_pb2

from tests.support.adapters import CONFIG, WEIGHTS, adapter_bytes
from tests.support.hostile import HOSTILE

SENDABLE = "links, pipes and folders exist on the pusher's disk alone; the wire carries names and bytes"


def names(directory) -> list[str]:
    return sorted(name for name in os.listdir(directory) if stat.S_ISREG((directory / name).lstat().st_mode))


@pytest.mark.parametrize("case", HOSTILE, ids=str)
async def test_a_hostile_adapter_is_refused_typed_and_leaves_nothing_in_the_catalogue(client, tmp_path, case):
    directory = tmp_path / "hostile"
    directory.mkdir()
    case.write(directory)
    if any(not stat.S_ISREG((directory / name).lstat().st_mode) for name in os.listdir(directory)):
        pytest.skip(SENDABLE)
    await client.register()
    files = [await client.put((directory / name).read_bytes(), name) for name in names(directory)]
    with pytest.raises((InvalidAdapter, UnsupportedAdapter)) as caught:
        await client.call("CreateVersion", adapter="hostile", files=files)
    assert type(caught.value) is case.error
    assert not (await client.call("ListAdapters")).adapters


async def test_a_victim_beside_hostile_adapters_keeps_its_bytes(client, tmp_path):
    await client.register()
    config, weights = adapter_bytes()
    victim = await client.publish("victim", (config, weights))
    for index, case in enumerate(HOSTILE[:20]):
        directory = tmp_path / str(index)
        directory.mkdir()
        case.write(directory)
        files = [await client.put((directory / name).read_bytes(), name) for name in names(directory)]
        with pytest.raises((InvalidAdapter, UnsupportedAdapter)):
            await client.call("CreateVersion", adapter="victim", files=files)
    assert (await client.call("Resolve", adapter="victim")).version == victim
    for file, data in ((CONFIG, config), (WEIGHTS, weights)):
        (digest,) = [entry.digest for entry in victim.manifest.files if entry.name == file]
        assert digest == digest_of(b"".join(piece.data for piece in await client.get(digest)))


@pytest.mark.parametrize("name", ["../adapter_config.json", "/etc/passwd", "a\x00b", ""])
async def test_a_name_outside_of_the_closed_list_is_refused(client, name):
    files = [types_pb2.File(name=each, digest=digest_of(b"")) for each in (CONFIG, WEIGHTS, name)]
    with pytest.raises(InvalidAdapter, match="unexpected files"):
        await client.call("CreateVersion", adapter="x", files=files)
