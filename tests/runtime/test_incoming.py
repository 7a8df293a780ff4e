"""Bytes on their way in: hashed and looked at in one pass, believed only when they are verified."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_worker.runtime.incoming import Expected, Incoming, pieces, stamp_of, verify
from compute_worker.runtime.parsing import Parsing, inspect, outlines_on
from lorry.errors import DigestMismatch, IncompatibleAdapter, InvalidAdapter
from lorry.format.bundle import CONFIG_NAME
from lorry.format.digest import digest_of
from lorry.format.facts import AdapterFacts
from lorry.format.header import header_length, parse_header
from lorry.format.manifest import ManifestFile
from tests.support.adapters import adapter_bytes
from tests.support.toy_engine import BASE, MODULE, WIDTH, ToyEngine, content_of
from tests.support.toy_world import World, call, eventually

CONFIG, WEIGHTS = adapter_bytes({MODULE: (WIDTH, WIDTH, 3)}, seed=1)


class Watcher:
    """A Look that keeps what it saw."""

    def __init__(self) -> None:
        self.seen = b""
        self.restarts = 0

    def take(self, data: memoryview) -> None:
        self.seen += data

    def restart(self) -> None:
        self.seen = b""
        self.restarts += 1


def file_of(data: bytes) -> ManifestFile:
    return ManifestFile("weights", digest_of(data), len(data))


def test_bytes_are_written_hashed_and_seen(tmp_path: Path) -> None:
    watcher = Watcher()
    incoming = Incoming(tmp_path / "x", file_of(b"some bytes"), watcher)
    incoming.append(0, b"some ")
    incoming.append(5, memoryview(b"bytes"))
    incoming.commit()
    assert (tmp_path / "x").read_bytes() == watcher.seen == b"some bytes"
    assert incoming.stamp == stamp_of(tmp_path / "x") is not None


def test_wrong_bytes_are_not_committed_and_right_ones_may_follow(tmp_path: Path) -> None:
    watcher = Watcher()
    incoming = Incoming(tmp_path / "x", file_of(b"right"), watcher)
    incoming.append(0, b"wrong")
    with pytest.raises(DigestMismatch):
        incoming.commit()
    assert incoming.stamp is None
    incoming.restart()
    incoming.append(0, b"right")
    incoming.commit()
    assert (watcher.seen, watcher.restarts, (tmp_path / "x").read_bytes()) == (b"right", 1, b"right")


@pytest.mark.parametrize(("offset", "data"), [(1, b"a"), (0, b"too much")])
def test_bytes_that_cannot_belong_there_are_refused(tmp_path: Path, offset: int, data: bytes) -> None:
    incoming = Incoming(tmp_path / "x", file_of(b"right"), Watcher())
    with pytest.raises(DigestMismatch, match="expected bytes at 0 of 5"):
        incoming.append(offset, data)
    incoming.close()


def test_a_file_on_disk_is_seen_while_it_is_verified(tmp_path: Path) -> None:
    path, watcher = tmp_path / "x", Watcher()
    path.write_bytes(WEIGHTS)
    assert verify(path, file_of(WEIGHTS), watcher) == stamp_of(path)
    assert watcher.seen == WEIGHTS
    path.write_bytes(WEIGHTS[:-1] + b"\0")
    assert verify(path, file_of(WEIGHTS), watcher) is None
    assert (watcher.seen, watcher.restarts) == (b"", 1)
    assert verify(tmp_path / "none", file_of(WEIGHTS), watcher) is None


def test_who_comes_later_sees_what_was_there_before() -> None:
    expected, watcher = Expected(), Watcher()
    expected.take(memoryview(b"some "))
    expected.come(watcher)
    expected.take(memoryview(b"bytes"))
    assert (watcher.seen, watcher.restarts) == (b"some bytes", 0)


def test_what_came_before_a_restart_is_not_seen() -> None:
    expected, watcher = Expected(), Watcher()
    expected.take(memoryview(b"wrong"))
    expected.restart()
    expected.take(memoryview(b"ri"))
    expected.come(watcher)
    expected.restart()
    expected.take(memoryview(b"right"))
    assert (watcher.seen, watcher.restarts) == (b"right", 1)


def test_who_comes_too_late_sees_nothing_but_what_is_sent_again() -> None:
    expected, watcher, piece = Expected(), Watcher(), memoryview(bytes(1 << 20))
    for _ in range(5):
        expected.take(piece)
    expected.come(watcher)
    expected.take(piece)
    assert watcher.seen == b""
    expected.restart()
    expected.take(memoryview(b"again"))
    assert watcher.seen == b"again"


def parsing(tmp_path: Path, engine: ToyEngine, weights: bytes = WEIGHTS, *, known: bool = False) -> Parsing:
    (tmp_path / "config").write_bytes(CONFIG)
    return Parsing(tmp_path / "config", len(weights), outlines_on(BASE), engine.reading, known=known)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(cuts=st.lists(st.integers(0, len(WEIGHTS)), max_size=12))
def test_an_adapter_is_the_same_however_its_bytes_are_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    engine = ToyEngine()
    made = parsing(tmp_path_factory.mktemp("cuts"), engine)
    ends = [*sorted(cuts), len(WEIGHTS)]
    for start, end in zip([0, *ends], ends, strict=False):
        made.take(memoryview(WEIGHTS)[start:end])
    assert made.host().content == content_of(WEIGHTS)
    assert made.facts().rank == 3
    assert engine.violations == []


def test_what_is_wrong_is_told_at_the_end_and_forgotten_where_it_was_not_the_file(tmp_path: Path) -> None:
    nan = WEIGHTS[:-4] + b"\xff\xff\xff\x7f"
    made = parsing(tmp_path, ToyEngine())
    made.take(memoryview(nan))
    with pytest.raises(InvalidAdapter, match="finite"):
        made.facts()
    made.restart()
    made.take(memoryview(WEIGHTS))
    assert made.host().content == content_of(WEIGHTS)


def test_values_are_not_looked_at_again_where_the_digest_is_known(tmp_path: Path) -> None:
    nan = WEIGHTS[:-4] + b"\xff\xff\xff\x7f"
    again = parsing(tmp_path, ToyEngine(), known=True)
    again.take(memoryview(nan))
    assert again.host().content == content_of(nan)


async def test_weights_are_on_their_way_while_the_configuration_is(world: World) -> None:
    published = world.registry.add("a")
    config = next(file for file in published.manifest.files if file.name == CONFIG_NAME)
    world.registry.held[config.digest] = gate = asyncio.Event()
    loading = asyncio.create_task(world.runtime.load("a"))
    await eventually(lambda: world.registry.fetched[world.registry.weights(published).digest] == 1)
    await asyncio.sleep(0.02)
    assert world.engine.reads == 0
    gate.set()
    assert (await loading).rank == 2


@pytest.mark.parametrize("end", [4, 20, -1])
def test_bytes_that_end_early_are_no_adapter(tmp_path: Path, end: int) -> None:
    made = parsing(tmp_path, ToyEngine())
    made.take(memoryview(WEIGHTS)[:end])
    with pytest.raises(InvalidAdapter, match=f"expected {len(WEIGHTS)} bytes"):
        made.facts()


def test_no_tensor_is_begun_before_the_guard_has_seen_the_header(tmp_path: Path) -> None:
    config, weights = adapter_bytes({"model.layers.9.up_proj": (WIDTH, WIDTH, 2)})
    engine = ToyEngine()
    begun: list[AdapterFacts] = []
    (tmp_path / "config").write_bytes(config)
    made = Parsing(
        tmp_path / "config",
        len(weights),
        outlines_on(BASE),
        lambda facts: begun.append(facts) or engine.reading(facts),
    )
    made.take(memoryview(weights)[: header_length(weights[:8])])
    with pytest.raises(IncompatibleAdapter, match="UNKNOWN_MODULE"):
        made.facts()
    assert begun == []


def test_facts_alone_need_no_engine(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(CONFIG)
    (tmp_path / "weights").write_bytes(WEIGHTS)
    assert inspect(tmp_path / "config", tmp_path / "weights", BASE).rank == 3
    assert b"".join(bytes(piece) for piece in pieces(tmp_path / "weights")) == WEIGHTS


async def test_a_load_from_the_registry_never_reads_the_file_that_it_wrote(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parsing, "read", lambda self, _: self.facts())  # sees nothing that did not stream by
    world.registry.piece = 7
    published = world.registry.add("a")
    request = call("hello", "a")
    assert (await world.ask(request)).tokens == world.expected(request, (published, 1.0))


async def test_what_the_next_adapter_waits_for_is_done_beside_a_load_and_some_time_behind_it(world: World) -> None:
    world.registry.add("one")
    await world.runtime.load("one")
    await eventually(lambda: world.engine.prepared == 2)
    assert world.engine.tidied == 1  # not while something is waited for


def test_adapters_that_differ_in_their_values_alone_have_one_outline() -> None:
    header = WEIGHTS[: header_length(WEIGHTS[:8])]
    outlines = outlines_on(BASE)
    facts, runs = outlines(CONFIG, header, len(WEIGHTS))
    assert [tensor.name for run in runs for tensor in run] == [
        t.name for t in parse_header(header, len(WEIGHTS)).tensors
    ]
    assert outlines(CONFIG, bytes(bytearray(header)), len(WEIGHTS))[0] is facts
    with pytest.raises(InvalidAdapter):
        outlines(CONFIG, header, len(WEIGHTS) + 1)


async def test_whoever_joins_anothers_transfer_reads_the_file_afterwards(world: World) -> None:
    published = world.registry.add("a")
    gate = world.registry.hold(published)
    version = await world.runtime._held.resolver.version("a", asked_anew=True)
    examining = asyncio.create_task(world.runtime._held.loader.examine(version, known=False))
    loading = asyncio.create_task(world.runtime._held.loader.load(version, known=False))
    await asyncio.sleep(0.02)
    gate.set()
    facts, host = await loading
    assert (await examining).rank == facts.rank == host.rank
    assert set(world.registry.fetched.values()) == {1}
