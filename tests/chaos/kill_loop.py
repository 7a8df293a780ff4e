"""The kill loop: uploaders, a collector and a killer on one registry, and a record of what was acknowledged.

Owns who does what at which random moment; everything random comes from one seed. Does not know how a
registry is started, nor what is a failure of it.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from lorry import RegistryClient
from lorry.errors import AlreadyRunning, DeadlineExceeded, LorryError, MissingBlobs, VersionNotFound
from lorry.format.digest import digest_of_file
from lorry.v1.types_pb2 import Version
from tests.chaos.home import Home, damaged, visible
from tests.support.adapters import base_for, write_adapter

T = TypeVar("T")

MODULE = "model.layers.0.mlp.down_proj"
WIDTH = 256
# An adapter of rank r has r * (256 + 256) * 4 bytes: 2 KB to 2 MB, and one of 64 MB.
MAX_RANK = 1_000
BIG_RANK = 32_000
BASE = base_for({MODULE: (WIDTH, WIDTH, 1)})
# Bytes that no row knows, and parts of broken uploads: longer than a start, so that uploads are gone on with.
SETTLING = {"LORRY_CHAOS_SETTLING": "5"}
# An uploader leaves so many versions standing, so that a check takes seconds however long the run.
_STANDING = 20
# A check reads everything, for which the killer waits.
_CHECK_EVERY = 5
# 64 MB are sent this many kills after the last that were acknowledged, so that small ones come through too.
_BIG_EVERY = 4


@dataclass
class Record:
    """What the callers were told, in their own memory: versions as `namespace/name@digest`.

    acked: with their files, digest by name, in the order of acknowledgement by adapter. leaving: those
    whose deletion was asked for; left: acknowledged ones of them.
    """

    acked: dict[str, dict[str, str]] = field(default_factory=dict)
    order: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    leaving: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    ghosts: set[str] = field(default_factory=set)
    bad: dict[str, str] = field(default_factory=dict)
    kills: int = 0
    big: int = 0
    swept: int = 0
    checked: int = 0

    def figures(self) -> str:
        """One line for people."""
        return (
            f"{self.kills} kills, {len(self.acked)} acked ({self.big} of 64 MB, {len(self.left)} deleted again), "
            f"{self.swept} blobs swept, {self.checked} versions read; "
            f"lost {len(self.lost)}, visible-bad {len(self.bad)}, come back {len(self.ghosts)}"
        )


async def until_done(call: Callable[[], Awaitable[T]]) -> T:
    """The answer, however often the registry is killed meanwhile. Raises what is no outage.

    Garbage collection without a grace takes what was sent before it is published: then it is sent again.
    """
    while True:
        try:
            return await call()
        except LorryError as error:
            if not (error.retryable or isinstance(error, MissingBlobs | DeadlineExceeded)):
                raise
            await asyncio.sleep(0.02)


class Loop:
    """One run. seconds, kills: it goes on until both are over."""

    def __init__(self, home: Home, folder: Path, seed: int, *, seconds: float, kills: int) -> None:
        self._home = home
        self._folder = folder
        self._seed = seed
        self._seconds, self._kills = seconds, kills
        self._over = asyncio.Event()
        self._changed = asyncio.Condition()
        self.record = Record()

    async def run(self) -> Record:
        """Kill until it is over; every uploader ends with an acknowledgement."""
        await asyncio.to_thread(self._home.start, **SETTLING)
        async with self._home.client() as client, asyncio.TaskGroup() as group:
            await client.register_base_model("base", BASE)
            collecting = group.create_task(self._collect(client))
            uploaders = [group.create_task(self._upload(number)) for number in range(3)]
            uploaders.append(group.create_task(self._upload_big()))
            await self._kill(client)
            collecting.cancel()
            self._over.set()
            await self._tell()
            await asyncio.gather(*uploaders)
        return self.record

    def _random(self, whose: str) -> random.Random:
        return random.Random(f"{self._seed} {whose}")  # noqa: S311 - the same in each run

    async def _kill(self, client: RegistryClient) -> None:
        draw, end = self._random("killer"), time.monotonic() + self._seconds
        while self.record.kills < self._kills or time.monotonic() < end:
            await self._after_acks(draw.randint(3, 5))
            await asyncio.sleep(draw.uniform(0, 0.3))
            await asyncio.to_thread(self._home.kill)
            await asyncio.to_thread(self._home.start, **SETTLING)
            self.record.kills += 1
            await self._tell()
            if self.record.kills % _CHECK_EVERY == 0:
                await self.check(client)
                sys.stdout.write(f"seed {self._seed}: {self.record.figures()}\n")

    async def _after_acks(self, count: int) -> None:
        wanted = len(self.record.acked) + count
        await self._until(lambda: len(self.record.acked) >= wanted)

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait for something about the record."""
        async with self._changed:
            await self._changed.wait_for(holds)

    async def _tell(self) -> None:
        """The record changed."""
        async with self._changed:
            self._changed.notify_all()

    async def _upload(self, number: int) -> None:
        """Small adapters, some deleted again; README files of no byte are the same blob in many."""
        draw, name = self._random(f"uploader {number}"), f"team-{number}/adapter"
        async with self._home.client() as client:
            while not self._over.is_set():
                readme = bytes(draw.choice([0, 0, 1, 5_000]))
                await self._push(client, name, draw.randint(1, MAX_RANK), draw.getrandbits(32), readme)
                if draw.random() < 1 / 3 or len(self._standing(name)) > _STANDING:
                    await self._delete_oldest(client, name)

    async def _upload_big(self) -> None:
        draw, name = self._random("big"), "team-big/adapter"
        async with self._home.client() as client:
            while not self._over.is_set():
                await self._push(client, name, BIG_RANK, draw.getrandbits(32), b"")
                self.record.big += 1
                await self._delete_oldest(client, name)
                next_at = self.record.kills + _BIG_EVERY
                await self._until(lambda at=next_at: self.record.kills >= at or self._over.is_set())

    async def _push(self, client: RegistryClient, name: str, rank: int, seed: int, readme: bytes) -> None:
        folder = self._folder / name
        await asyncio.to_thread(write_adapter, folder, {MODULE: (WIDTH, WIDTH, rank)}, seed=seed, scale=0.1)
        (folder / "README.md").write_bytes(readme)
        version = await until_done(lambda: client.push(folder, name, base="base", alias="prod"))
        known = f"{name}@{version.digest}"
        self.record.acked[known] = {path.name: digest_of_file(path) for path in folder.iterdir() if path.is_file()}
        self.record.order[name].append(known)
        await self._tell()

    async def _delete_oldest(self, client: RegistryClient, name: str) -> None:
        """Of those that stand, but never the newest, which the alias names."""
        standing = self._standing(name)
        if len(standing) < 2:
            return
        oldest = standing[0]
        self.record.leaving.add(oldest)
        await until_done(lambda: _deleted(client, oldest))
        self.record.left.add(oldest)

    def _standing(self, name: str) -> list[str]:
        return [known for known in self.record.order[name] if known not in self.record.leaving]

    async def _collect(self, client: RegistryClient) -> None:
        draw = self._random("collector")
        while True:
            await asyncio.sleep(draw.uniform(0.5, 2))
            grace = timedelta(seconds=draw.choice([0, 0.5, 1]))
            try:
                self.record.swept += (await client.collect_garbage(grace=grace)).swept_blobs
            except LorryError as error:
                # The turn of a killed one ends with its connection, a moment later.
                if not (error.retryable or isinstance(error, AlreadyRunning)):
                    raise

    async def check(self, client: RegistryClient) -> None:
        """Look at everything while the others go on; what they did meanwhile may be seen or not."""
        acked, left = dict(self.record.acked), set(self.record.left)
        last = {name: order[-1] for name, order in self.record.order.items()}
        seen = await until_done(lambda: visible(client))
        self.record.lost |= acked.keys() - seen.keys() - self.record.leaving
        self.record.ghosts |= seen.keys() & left
        self.record.lost |= {known for known, files in acked.items() if known in seen and _files(seen[known]) != files}
        bad = await damaged(client, seen)
        self.record.bad |= {known: why for known, why in bad.items() if known not in self.record.leaving}
        self.record.checked += len(seen)
        for name, newest in last.items():
            await self._check_alias(client, name, newest)

    async def _check_alias(self, client: RegistryClient, name: str, newest: str) -> None:
        """It names the newest that was acknowledged, or what came behind that."""
        found = await until_done(lambda: client.resolve(f"{name}:prod"))
        order, known = self.record.order[name], f"{name}@{found.digest}"
        if known in order and order.index(known) < order.index(newest):
            self.record.lost.add(f"{name}:prod to {newest}")


def _files(version: Version) -> dict[str, str]:
    return {file.name: file.digest for file in version.manifest.files}


async def _deleted(client: RegistryClient, reference: str) -> Any:
    try:
        return await client.delete_version(reference)
    except VersionNotFound:  # the answer to an earlier try was lost
        return None
