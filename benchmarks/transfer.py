"""Push and pull of one large adapter, against a bare TCP connection.

Owns these two cases. No other registry is compared: what the peer shows is what loopback itself
allows, without hashing, storing or checking anything.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from pathlib import Path
from threading import Thread

from benchmarks.measuring import Claim
from benchmarks.world import World, name_of

_PUSH_SEEDS = 3_000
_PULL_SEED = 4_000
_CHUNK = 1 << 20
_MEGABYTE = 1e6


class Push:
    """MB/s of a push that is new to the registry: checked, hashed, sent, hashed again, stored, published."""

    claim = Claim("push", "push of a large adapter", "MB/s", "TCP", higher=True)

    async def prepare(self, world: World) -> None:
        """See Case."""
        await self.ours(world, -1)
        await self.peer(world, -1)

    async def ours(self, world: World, turn: int) -> float:
        """See Case."""
        seed = _PUSH_SEEDS + 1 + turn
        folder = _large(world, seed)
        began = time.perf_counter()
        await world.registry.push(folder, name_of(seed), base=world.base)
        return _rate(folder, time.perf_counter() - began)

    async def peer(self, world: World, turn: int) -> float:
        """See Case."""
        folder = _large(world, _PUSH_SEEDS + 1 + turn)
        return _rate(folder, await asyncio.to_thread(over_tcp, _weights(folder).read_bytes()))


class Pull:
    """MB/s of a pull into a new folder: sent, hashed, written, synced."""

    claim = Claim("pull", "pull of a large adapter", "MB/s", "TCP", higher=True)

    async def prepare(self, world: World) -> None:
        """See Case."""
        await world.registry.push(_large(world, _PULL_SEED), name_of(_PULL_SEED), base=world.base)
        await self.ours(world, -1)
        await self.peer(world, -1)

    async def ours(self, world: World, turn: int) -> float:
        """See Case."""
        into = world.state / "pulled" / str(turn)
        began = time.perf_counter()
        await world.registry.pull(name_of(_PULL_SEED), into)
        rate = _rate(into, time.perf_counter() - began)
        shutil.rmtree(into)
        return rate

    async def peer(self, world: World, turn: int) -> float:  # noqa: ARG002 - every turn does the same
        """See Case."""
        folder = _large(world, _PULL_SEED)
        return _rate(folder, await asyncio.to_thread(over_tcp, _weights(folder).read_bytes()))


def over_tcp(data: bytes) -> float:
    """Seconds that `data` takes through a loopback connection, into memory that is overwritten."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = Thread(target=_send, args=(server.getsockname(), data))
        sender.start()
        connection, _ = server.accept()
        began = time.perf_counter()
        with connection:
            buffer = bytearray(_CHUNK)
            left = len(data)
            while left and (received := connection.recv_into(buffer)):
                left -= received
        seconds = time.perf_counter() - began
        sender.join()
    if left:
        raise RuntimeError(f"expected {len(data)} bytes, {left} of them never came")
    return seconds


def _send(address: tuple[str, int], data: bytes) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(data)


def _large(world: World, seed: int) -> Path:
    return world.adapters.folder(seed, world.adapters.rank_of_bytes(world.scale.transfer_bytes))


def _weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def _rate(folder: Path, seconds: float) -> float:
    return _weights(folder).stat().st_size / _MEGABYTE / seconds
