"""Transfers over a network that misbehaves: each ends with the right bytes or with an error of lorry.errors."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from _pytest.mark.structures import ParameterSet

from lorry import LorryError, RegistryClient, blobs, retry
from lorry.errors import CorruptBlob, DeadlineExceeded, Unavailable
from lorry.format.digest import digest_of
from tests.support.proxy import Fault, Kind, Plan, Proxy, Way, always, first, tcp_proxy
from tests.support.registry import registry_process

MIB = 1 << 20
# Several chunks of 1 MiB and a rest, so that faults fall within and between messages.
SIZE = 3 * MIB + 12_345
# No transfer below takes longer, right or wrong.
PATIENCE = 60.0
BREAKS = [Kind.CUT, Kind.RESET]
DAMAGES = [Kind.FLIP, Kind.DROP, Kind.REPEAT]

seeds = itertools.count(5)


def beside(places: list[int]) -> list[ParameterSet]:
    """More of the places where a fault may fall, for the long form."""
    return [pytest.param(place, marks=pytest.mark.long) for place in places]


@dataclass(frozen=True)
class Source:
    """A file that the registry of these tests has not seen before."""

    path: Path
    data: bytes
    digest: str

    async def arrived(self, client: RegistryClient, folder: Path) -> bool:
        """Whether the registry has the blob, whole and right."""
        if await client.find_missing([self.digest]):
            return False
        await client.download(self.digest, SIZE, folder / "control")
        return (folder / "control").read_bytes() == self.data


@pytest.fixture
def source(tmp_path: Path) -> Source:
    data = random.Random(next(seeds)).randbytes(SIZE)  # noqa: S311 - a repeatable file, no secret
    path = tmp_path / "source"
    path.write_bytes(data)
    return Source(path, data, digest_of(data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with registry_process(folder) as registry:
        yield registry.target


@pytest_asyncio.fixture
async def client(address: str) -> AsyncIterator[RegistryClient]:
    async with RegistryClient(address, timeout=20) as client:
        yield client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(retry, "MAX_FAILURES", 3)


@asynccontextmanager
async def through(address: str, plan: Plan) -> AsyncIterator[tuple[RegistryClient, Proxy]]:
    async with tcp_proxy(address, plan) as proxy, RegistryClient(proxy.address, timeout=10) as client:
        yield client, proxy


async def outcome(transfer: Awaitable[None]) -> LorryError | None:
    """None where it went well. Anything but a LorryError fails the test."""
    try:
        async with asyncio.timeout(PATIENCE):
            await transfer
    except LorryError as error:
        return error
    return None


@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("at", [0, 9, 70_000, MIB, MIB + 1])
async def test_a_download_that_is_cut_goes_on(
    client: RegistryClient, source: Source, address: str, tmp_path: Path, kind: Kind, at: int
) -> None:
    await client.upload(source.path, source.digest)
    async with through(address, first(2, Fault(kind, Way.DOWN, at))) as (faulty, proxy):
        await faulty.download(source.digest, SIZE, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.data
    assert proxy.connections == 3
    # What was there before a cut is not asked for again; the chunk that was under way is lost.
    assert proxy.passed[Way.DOWN] < SIZE + 2 * MIB + 100_000


async def test_a_download_is_patient_while_it_moves(
    client: RegistryClient, source: Source, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_FAILURES", 3)
    await client.upload(source.path, source.digest)

    def a_chunk_each(_number: int) -> Fault:
        proxy.released.clear()
        return Fault(Kind.STALL, Way.DOWN, MIB + 5_000)

    # Each connection brings one chunk and dies in the next, as often as failures in a row would be the end; not
    # before the chunk was taken, as gRPC drops what nobody has taken when the connection ends.
    async with through(address, a_chunk_each) as (faulty, proxy):
        await faulty.download(source.digest, SIZE, tmp_path / "out", progress=lambda *_: proxy.released.set())
    assert (tmp_path / "out").read_bytes() == source.data
    assert proxy.connections >= 4


@pytest.mark.usefixtures("impatient")
async def test_a_download_that_never_moves_gives_up(
    client: RegistryClient, source: Source, address: str, tmp_path: Path
) -> None:
    await client.upload(source.path, source.digest)
    async with through(address, always(Fault(Kind.CUT, Way.DOWN, 200))) as (faulty, _):
        error = await outcome(faulty.download(source.digest, SIZE, tmp_path / "out" / "file"))
    assert isinstance(error, Unavailable)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("at", [0, 9, 70_000, MIB, 3 * MIB])
async def test_an_upload_that_is_cut_goes_on(
    client: RegistryClient, source: Source, address: str, tmp_path: Path, kind: Kind, at: int
) -> None:
    async with through(address, first(2, Fault(kind, Way.UP, at))) as (faulty, _):
        await faulty.upload(source.path, source.digest)
    assert await source.arrived(client, tmp_path)


async def test_an_upload_goes_on_where_an_earlier_one_was_left(
    client: RegistryClient, source: Source, address: str, tmp_path: Path
) -> None:
    async with through(address, always(Fault(Kind.STALL, Way.UP, 2 * MIB + 100_000))) as (faulty, _):
        left = asyncio.create_task(faulty.upload(source.path, source.digest))
        async with asyncio.timeout(PATIENCE):
            while (await client.query_upload(source.digest)).committed_bytes < MIB:  # noqa: ASYNC110 - it is far away
                await asyncio.sleep(0.05)
        left.cancel()
    kept = (await client.query_upload(source.digest)).committed_bytes
    steps: list[int] = []
    await client.upload(source.path, source.digest, progress=lambda _name, done, _size: steps.append(done))
    assert steps[0] == kept >= MIB
    assert await source.arrived(client, tmp_path)


async def test_two_uploads_of_one_blob_both_end_well(client: RegistryClient, source: Source, tmp_path: Path) -> None:
    await asyncio.gather(*(client.upload(source.path, source.digest) for _ in range(2)))
    assert await source.arrived(client, tmp_path)


@pytest.mark.usefixtures("impatient")
async def test_a_transfer_on_a_silent_connection_ends_typed(
    client: RegistryClient, source: Source, address: str, tmp_path: Path
) -> None:
    async with through(address, always(Fault(Kind.STALL, Way.UP, MIB + 50_000))) as (faulty, _):
        assert isinstance(
            await outcome(faulty.within(1).upload(source.path, source.digest)), Unavailable | DeadlineExceeded
        )
    await client.upload(source.path, source.digest)
    async with through(address, always(Fault(Kind.STALL, Way.DOWN, MIB + 50_000))) as (faulty, _):
        assert isinstance(await outcome(faulty.download(source.digest, SIZE, tmp_path / "out" / "file")), Unavailable)
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_registry_that_answers_late_is_asked_again(
    client: RegistryClient, source: Source, address: str, tmp_path: Path
) -> None:
    async with through(address, first(1, Fault(Kind.STALL, Way.DOWN, 300))) as (faulty, proxy):
        uploading = asyncio.create_task(faulty.within(1).upload(source.path, source.digest))
        await asyncio.wait_for(proxy.stalled.wait(), PATIENCE)
        await asyncio.sleep(1.2)  # the call's own deadline passes; only then the connection ends
        proxy.released.set()
        await asyncio.wait_for(uploading, PATIENCE)
    assert await source.arrived(client, tmp_path)


async def test_a_deadline_bounds_everything(
    client: RegistryClient, source: Source, address: str, tmp_path: Path
) -> None:
    async with through(address, always(Fault(Kind.STALL, Way.DOWN, 300))) as (faulty, _):
        assert isinstance(await outcome(faulty.upload(source.path, source.digest, timeout=0.5)), DeadlineExceeded)
    await client.upload(source.path, source.digest)
    async with through(address, always(Fault(Kind.STALL, Way.DOWN, 300))) as (faulty, _):
        download = faulty.download(source.digest, SIZE, tmp_path / "out" / "file", timeout=0.5)
        assert isinstance(await outcome(download), DeadlineExceeded)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("at", [40, 70_000, *beside([3, 300, MIB + 70_000, 3 * MIB])])
async def test_damaged_bytes_are_never_taken(
    client: RegistryClient, source: Source, address: str, tmp_path: Path, kind: Kind, at: int
) -> None:
    await client.upload(source.path, source.digest)
    out = tmp_path / "out"
    async with through(address, first(1, Fault(kind, Way.DOWN, at))) as (faulty, _):
        error = await outcome(faulty.download(source.digest, SIZE, out, timeout=3))
    assert (error is None and out.read_bytes() == source.data) or (error is not None and not out.exists())


async def test_a_flipped_bit_in_the_bytes_costs_a_second_try(
    client: RegistryClient, source: Source, address: str, tmp_path: Path
) -> None:
    await client.upload(source.path, source.digest)
    async with through(address, first(1, Fault(Kind.FLIP, Way.DOWN, 500_000))) as (faulty, proxy):
        await faulty.download(source.digest, SIZE, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.data
    assert proxy.passed[Way.DOWN] > 2 * SIZE


def stored_file(folder: Path, source: Source) -> Path:
    sizes = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size == SIZE)
    return next(path for path in sizes if path.read_bytes() == source.data)


async def test_a_blob_that_is_damaged_at_its_source_is_reported_so(
    client: RegistryClient, source: Source, folder: Path, tmp_path: Path
) -> None:
    await client.upload(source.path, source.digest)
    kept = stored_file(folder, source)
    kept.chmod(0o600)
    kept.write_bytes(source.data[:-1] + bytes([source.data[-1] ^ 1]))
    with pytest.raises(CorruptBlob):
        await client.download(source.digest, SIZE, tmp_path / "out" / "file")
    assert list((tmp_path / "out").iterdir()) == []
    await client.upload(source.path, source.digest)
    await client.download(source.digest, SIZE, tmp_path / "out" / "file")
    assert (tmp_path / "out" / "file").read_bytes() == source.data


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("at", [300, 70_000, *beside([30, MIB + 70_000])])
async def test_damage_on_the_way_up_never_becomes_a_blob(
    client: RegistryClient, source: Source, address: str, tmp_path: Path, kind: Kind, at: int
) -> None:
    async with through(address, first(1, Fault(kind, Way.UP, at))) as (faulty, _):
        error = await outcome(faulty.within(2).upload(source.path, source.digest, timeout=3))
    arrived = await source.arrived(client, tmp_path)
    assert arrived or (error is not None and await client.find_missing([source.digest]))


async def test_a_registry_that_is_killed_and_comes_back_is_found_again(source: Source, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        with registry_process(tmp_path / "registry") as first_life:
            client = await stack.enter_async_context(RegistryClient(first_life.target))
            await client.upload(source.path, source.digest)
            first_life.kill()
            download = asyncio.create_task(client.download(source.digest, SIZE, tmp_path / "out"))
        with registry_process(tmp_path / "registry", listen=first_life.target):
            async with asyncio.timeout(PATIENCE):
                await download
    assert (tmp_path / "out").read_bytes() == source.data
