"""The SDK against the deployment: whole adapters in and out, also where the connection is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry.format.digest import digest_of
from tests.conformance.guest import BASE, Guest
from tests.support.adapters import CONFIG, WEIGHTS
from tests.support.proxy import Fault, Kind, Way, first, tcp_proxy

# Behind the handshake of TLS and HTTP/2, well inside of the bytes.
FAR = 3 << 20
SIZE = 12 << 20


def folder(guest: Guest, into: Path, seed: int = 0) -> Path:
    into.mkdir()
    for name, data in zip((CONFIG, WEIGHTS), guest.files(seed), strict=True):
        (into / name).write_bytes(data)
    return into


async def test_what_is_pushed_comes_back_when_it_is_pulled(guest: Guest, tmp_path: Path) -> None:
    source = folder(guest, tmp_path / "source")
    pushed = await guest.sdk.push(source, guest.own("pirate"), base=BASE, alias="prod")
    pulled = await guest.sdk.pull(guest.own("pirate:prod"), tmp_path / "pulled")
    assert pulled.digest == pushed.digest
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "pulled" / name).read_bytes() == (source / name).read_bytes()


async def test_a_push_that_is_repeated_changes_nothing(guest: Guest, tmp_path: Path) -> None:
    source = folder(guest, tmp_path / "source")
    versions = [await guest.sdk.push(source, guest.own("pirate"), base=BASE) for _ in range(2)]
    assert versions[0] == versions[1]


async def test_what_was_pulled_and_changed_is_a_child(guest: Guest, tmp_path: Path) -> None:
    parent = await guest.sdk.push(folder(guest, tmp_path / "source"), guest.own("pirate"), base=BASE)
    await guest.sdk.pull(guest.own("pirate"), tmp_path / "pulled")
    (tmp_path / "pulled" / WEIGHTS).write_bytes(guest.files(1)[1])
    child = await guest.sdk.push(tmp_path / "pulled", guest.own("pirate"), base=BASE)
    assert (child.number, list(child.manifest.parents)) == (2, [parent.digest])


@pytest.fixture
def reachable(guest: Guest) -> Guest:
    """A guest whose deployment may be called through a proxy on loopback."""
    if "root_certificates" in guest.credentials and not guest.target.startswith("127."):
        pytest.skip("a certificate for another host does not fit a proxy on loopback")
    return guest


async def test_an_upload_goes_on_behind_a_cut(reachable: Guest, tmp_path: Path) -> None:
    data = reachable.data(SIZE)
    source = tmp_path / "blob"
    source.write_bytes(data)
    async with tcp_proxy(reachable.target, first(2, Fault(Kind.CUT, Way.UP, FAR))) as proxy:
        cut = Guest(proxy.address, **reachable.credentials)
        await cut.sdk.upload(source, digest_of(data), namespace=reachable.namespace)
        await cut.close()
        assert proxy.connections > 2
    assert b"".join([piece.data for piece in await reachable.stream("Read", digest=digest_of(data))]) == data


async def test_a_download_goes_on_behind_a_cut(reachable: Guest, tmp_path: Path) -> None:
    data = reachable.data(SIZE)
    await reachable.put(data)
    async with tcp_proxy(reachable.target, first(2, Fault(Kind.RESET, Way.DOWN, FAR))) as proxy:
        cut = Guest(proxy.address, **reachable.credentials)
        await cut.sdk.download(digest_of(data), SIZE, tmp_path / "blob")
        await cut.close()
        # Each byte once, but for those in flight where it was cut.
        assert proxy.passed[Way.DOWN] < 2 * SIZE
    assert (tmp_path / "blob").read_bytes() == data


async def test_a_plain_call_is_repeated_where_that_is_harmless(reachable: Guest) -> None:
    await reachable.publish("pirate")
    async with tcp_proxy(reachable.target, first(1, Fault(Kind.CUT, Way.UP, 10))) as proxy:
        cut = Guest(proxy.address, **reachable.credentials)
        assert (await cut.sdk.resolve(reachable.own("pirate"))).number == 1
        await cut.close()
        assert proxy.connections > 1
