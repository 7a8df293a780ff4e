from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Unpack

import grpc
import grpc.aio
import pytest

from lorry.errors import InvalidInput, LorryError, Unavailable
from lorry.rpc.calls import translated
from lorry.rpc.channel import open_channel
from lorry.rpc.credentials import Credentials, caller_of, identified, on_behalf_of
from lorry.rpc.serving import Door, Service, is_serving, serving
from lorry.rpc.tls import ServerTls
from tests.support.certificates import Authority, Pair

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
TOKEN = "lorry_x"  # noqa: S105 - opens nothing


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.server()


def _echo() -> Service:
    """Tells who calls, and on whose behalf, in calls of all four kinds."""

    def said(context: grpc.aio.ServicerContext[object, object]) -> bytes:
        behalf = dict(context.invocation_metadata() or ()).get("lorry-on-behalf-of", "")
        return f"{caller_of(context)}|{behalf}".encode()

    async def answer(_request: object, context: grpc.aio.ServicerContext[object, object]) -> bytes:
        return said(context)

    async def stream(_request: object, context: grpc.aio.ServicerContext[object, object]) -> AsyncIterator[bytes]:
        yield said(context)

    handlers = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(stream if kind.endswith("stream") else answer)
        for kind in KINDS
    }
    generic = grpc.method_handlers_generic_handler("test.Echo", handlers)
    return Service("test.Echo", lambda server: server.add_generic_rpc_handlers((generic,)))


@asynccontextmanager
async def echo(tls: ServerTls | None = None) -> AsyncIterator[str]:
    async with serving("127.0.0.1:0", [_echo()], draining=asyncio.Event(), grace=0, door=Door(tls)) as server:
        yield server.address


async def said(target: str, kind: str = "unary_unary", **credentials: Unpack[Credentials]) -> str:
    async def requests() -> AsyncIterator[bytes]:
        yield b""

    async with open_channel(target, **credentials) as channel:
        method = getattr(channel, kind)(f"/test.Echo/{kind}")
        call = method(requests() if kind.startswith("stream") else b"", timeout=10)
        with translated():
            if kind.endswith("stream"):
                return b"".join([piece async for piece in call]).decode()
            return bytes(await call).decode()


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_call_shows_the_token_and_whom_it_is_made_for(kind: str) -> None:
    async with echo() as target:
        assert await said(target, kind) == "|"
        with on_behalf_of("Certificate ann"):
            assert await said(target, kind, token=TOKEN) == f"Bearer {TOKEN}|Certificate ann"
        assert await said(target, kind, token=TOKEN) == f"Bearer {TOKEN}|"


async def test_a_client_that_trusts_nobody_or_somebody_else_gets_no_connection(
    pair: Pair, authority: Authority, tmp_path: Path
) -> None:
    async with echo(ServerTls(*pair.files)) as target:
        assert await said(target, root_certificates=authority.root) == "|"
        with pytest.raises(Unavailable):
            await said(target)
        with pytest.raises(Unavailable):
            await said(target, root_certificates=Authority(tmp_path).root)


async def test_a_server_with_a_client_ca_knows_the_holder_of_a_certificate_and_nobody_else(
    pair: Pair, authority: Authority, tmp_path: Path
) -> None:
    own, root = authority.client("worker-1").files, authority.root
    async with echo(ServerTls(*pair.files, client_ca=root)) as target:
        assert await said(target, root_certificates=root, certificate=own) == "Certificate worker-1|"
        assert await said(target, root_certificates=root, certificate=own, token=TOKEN) == f"Bearer {TOKEN}|"
        with pytest.raises(Unavailable):
            await said(target, root_certificates=root)
        stranger = Authority(tmp_path).client("worker-1").files
        with pytest.raises(Unavailable):
            await said(target, root_certificates=root, certificate=stranger)


async def test_a_server_without_a_client_ca_takes_no_certificate_for_a_name(pair: Pair, authority: Authority) -> None:
    own = authority.client("worker-2").files
    async with echo(ServerTls(*pair.files)) as target:
        assert await said(target, root_certificates=authority.root, certificate=own) == "|"


async def test_a_server_is_asked_for_its_health_with_its_own_certificate(pair: Pair, authority: Authority) -> None:
    for tls in (ServerTls(*pair.files), ServerTls(*pair.files, client_ca=authority.root)):
        async with echo(tls) as target:
            assert await asyncio.to_thread(is_serving, target, timeout=10, tls=tls)
            assert not await asyncio.to_thread(is_serving, target, timeout=1)


async def test_a_renewed_certificate_needs_no_restart(pair: Pair, tmp_path: Path) -> None:
    now = Pair(tmp_path / "now.pem", tmp_path / "now.key")
    _copy(pair, now)
    newer = Authority(tmp_path / "newer", "newer")
    async with echo(ServerTls(*now.files)) as target:
        with pytest.raises(Unavailable):
            await said(target, root_certificates=newer.root)
        now.key.write_text("half written")
        with pytest.raises(Unavailable):  # the old pair goes on
            await said(target, root_certificates=newer.root)
        _copy(newer.server(), now)
        assert await said(target, root_certificates=newer.root) == "|"


def _copy(source: Pair, target: Pair) -> None:
    for one, other in zip(source.files, target.files, strict=True):
        shutil.copyfile(one, other)


async def test_files_that_are_no_pair_are_refused_before_anybody_connects(pair: Pair, authority: Authority) -> None:
    for wrong in (ServerTls(pair.certificate, authority.client("x").key), ServerTls(pair.key, pair.certificate)):
        with pytest.raises(InvalidInput, match="TLS: expected"):
            async with echo(wrong):
                pass
    with pytest.raises(OSError, match="missing"):
        async with echo(ServerTls(Path("missing.pem"), pair.key)):
            pass


@pytest.mark.parametrize(
    "header", ["Basic YTpi", "Bearer", "Bearer two words", "Bearer ", "lorry_x", f"Bearer {'x' * 501}"]
)
async def test_a_header_that_is_no_bearer_is_refused_without_being_shown(header: str) -> None:
    async with echo() as target, open_channel(target) as channel:
        call = channel.unary_unary("/test.Echo/unary_unary")
        with pytest.raises(LorryError, match="expected `Bearer TOKEN`") as caught, translated():
            await call(b"", metadata=(("authorization", header),), timeout=10)
        assert (caught.value.code, "YTpi" in caught.value.message) == ("UNAUTHENTICATED", False)


async def test_two_tokens_are_refused() -> None:
    async with echo() as target, open_channel(target) as channel:
        call = channel.unary_unary("/test.Echo/unary_unary")
        twice = (("authorization", "Bearer a"), ("authorization", "Bearer b"))
        with pytest.raises(LorryError, match="once"), translated():
            await call(b"", metadata=twice, timeout=10)


async def test_credentials_that_cannot_be_shown_are_refused_at_once(authority: Authority) -> None:
    with pytest.raises(InvalidInput, match="root certificates"):
        open_channel("127.0.0.1:1", certificate=authority.client("y").files)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(InvalidInput, match="printable"):
            identified(channel, "line\nbreak")
