"""Boot and drain of a gRPC server, the same for both services. Needs the `server` extra.

Owns: binding, with TLS or without, health (grpc.health.v1), reflection, the drain on SIGTERM and
SIGINT. Does not know which services it serves; the SDK does not import it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lorry.rpc.channel import channel_options, server_options
from lorry.rpc.interceptor import CallWatcher, ErrorInterceptor
from lorry.rpc.tls import ServerTls


class CannotListen(OSError):
    """The address cannot be bound; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service of a server: its full name, and what adds its servicer to a server."""

    name: str
    add_to: Callable[[grpc.aio.Server], None]


@dataclass(frozen=True, slots=True)
class Door:
    """What a call passes before it reaches a service: TLS where it is set, then the interceptors, in order.

    watchers: who is told of every call and of its end.
    """

    tls: ServerTls | None = None
    interceptors: Sequence[grpc.aio.ServerInterceptor] = field(default=())
    watchers: Sequence[CallWatcher] = field(default=())


# Unencrypted, and open to whoever can reach it.
OPEN_DOOR = Door()


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that answers. `address`: `host:port` as bound; `services`: their names."""

    address: str
    services: Sequence[str]
    health: health.aio.HealthServicer

    async def set_health(self, *, well: bool) -> None:
        """Say of the server and of each of its services that it is well, or not. Draining, it stays unwell."""
        status = health_pb2.HealthCheckResponse.SERVING if well else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in (health.OVERALL_HEALTH, *self.services):
            await self.health.set(name, status)


@asynccontextmanager
async def serving(
    listen: str, services: Sequence[Service], *, draining: asyncio.Event, grace: float, door: Door = OPEN_DOOR
) -> AsyncIterator[Listening]:
    """Serve on `host:port` (port 0: any) for the time of the block, then drain.

    Draining: health turns NOT_SERVING and `draining` is set, so that load balancers leave and
    endless streams end; no new call is taken; calls in flight get `grace` seconds to end.
    Raises CannotListen, OSError and InvalidInput where the certificate's files are not what they should be.
    """
    outermost = ErrorInterceptor(door.watchers)
    server = grpc.aio.server(interceptors=[outermost, *door.interceptors], options=server_options())
    names = [service.name for service in services]
    for service in services:
        service.add_to(server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    address = _bind(server, listen, door.tls)
    await server.start()
    listening = Listening(address, names, checks)
    await listening.set_health(well=True)
    try:
        yield listening
    finally:
        await checks.enter_graceful_shutdown()
        draining.set()
        await server.stop(grace)


def _bind(server: grpc.aio.Server, listen: str, tls: ServerTls | None) -> str:
    host, _, _ = listen.rpartition(":")
    credentials = tls.credentials() if tls else None
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise CannotListen(f"cannot listen on {listen}: is the address right, and is the port free?") from error
    return f"{host}:{port}"


def write_port_file(path: Path, address: str) -> None:
    """Tell whoever waits for the file where the server listens; the file is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(f"{address}\n", encoding="utf-8")
    temporary.replace(path)


async def stop_signal() -> signal.Signals:
    """Wait for SIGTERM or SIGINT; a second one takes its default effect and ends the process at once."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()
    wanted = (signal.SIGTERM, signal.SIGINT)

    def receive(number: signal.Signals) -> None:
        for each in wanted:
            loop.remove_signal_handler(each)
        received.set_result(number)

    for number in wanted:
        loop.add_signal_handler(number, receive, number)
    return await received


def is_serving(target: str, *, service: str = "", timeout: float, tls: ServerTls | None = None) -> bool:
    """Ask a server for its health; False where it does not answer within `timeout` seconds.

    tls: that of the server itself, which is asked on its own machine. Raises OSError, InvalidInput.
    """
    with _probing(target, tls) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _probing(target: str, tls: ServerTls | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(target, options=channel_options())
    credentials, name = tls.probe()
    # The address says where the server is, its certificate what it is called.
    named = [("grpc.ssl_target_name_override", name)] if name else []
    return grpc.secure_channel(target, credentials, options=[*channel_options(), *named])
