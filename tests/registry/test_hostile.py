from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lorry.errors import InvalidAdapter, UnsupportedAdapter
from lorry.format.digest import digest_of
from lorry.v1 import types_pb2
from tests.support.adapters import CONFIG, WEIGHTS, adapter_bytes, base_for
from tests.support.hostile import HOSTILE, HostileCase
from tests.support.hostile_kinds import THEIRS
from tests.support.registry import Client, running_registry

# These exist on the pusher's disk alone: the wire carries names and bytes.
ON_DISK = {"link-out-of-the-folder", "pipe-as-weights", "folder-as-file"}
SENDABLE = [case for case in HOSTILE if case.name not in ON_DISK]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """One registry for all cases: what each leaves behind would show up in the next."""
    folder = tmp_path_factory.mktemp("registry")
    async with running_registry(folder) as target, Client(target) as client:
        await client.register(base_for(vocab_size=THEIRS))
        yield client


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


async def sent(client: Client, directory: Path) -> list[types_pb2.File]:
    return [await client.put(path.read_bytes(), path.name) for path in _files(directory)]


@pytest.mark.parametrize("case", SENDABLE, ids=str)
async def test_a_hostile_adapter_is_refused_typed_and_leaves_nothing_in_the_catalogue(
    client: Client, tmp_path: Path, case: HostileCase
) -> None:
    directory = tmp_path / "hostile"
    directory.mkdir()
    case.write(directory)
    files = await sent(client, directory)
    with pytest.raises((InvalidAdapter, UnsupportedAdapter)) as caught:
        await client.call("CreateVersion", adapter="hostile", files=files)
    assert type(caught.value) is case.error
    assert not (await client.call("ListAdapters", filter="name=hostile")).adapters


async def test_a_victim_beside_hostile_adapters_keeps_its_bytes(client: Client, tmp_path: Path) -> None:
    config, weights = adapter_bytes()
    victim = await client.publish("victim", (config, weights))
    for index, case in enumerate(SENDABLE[:20]):
        directory = tmp_path / str(index)
        directory.mkdir()
        case.write(directory)
        files = await sent(client, directory)
        with pytest.raises((InvalidAdapter, UnsupportedAdapter)):
            await client.call("CreateVersion", adapter="victim", files=files)
    assert (await client.call("Resolve", adapter="victim")).version == victim
    for file, data in ((CONFIG, config), (WEIGHTS, weights)):
        (digest,) = [entry.digest for entry in victim.manifest.files if entry.name == file]
        assert b"".join(piece.data for piece in await client.get(digest)) == data


@pytest.mark.parametrize("name", ["../adapter_config.json", "/etc/passwd", "a\x00b", ""])
async def test_a_name_outside_of_the_closed_list_is_refused(client: Client, name: str) -> None:
    files = [types_pb2.File(name=each, digest=digest_of(b"")) for each in (CONFIG, WEIGHTS, name)]
    with pytest.raises(InvalidAdapter, match="unexpected files"):
        await client.call("CreateVersion", adapter="x", files=files)
