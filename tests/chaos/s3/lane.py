"""What the only client of one registry does to it, and what it knows of it.

Owns the operations, each of which ends well or raises and may then be done again, and the books: what
was acknowledged, what may or may not have happened, and what the bytes are. Does not know of faults.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from pathlib import Path

from lorry.errors import NotFound
from lorry.format.digest import digest_of
from lorry.registry import RegistryClient
from tests.support.adapters import BASE_NAME, CONFIG, WEIGHTS, adapter_bytes, base_for

# The least that S3 takes: what matters here is the number of parts, not their size.
PART_BYTES = 5 << 20
MODULE = "model.layers.0.self_attn.q_proj"
# One part of weights and a header.
LARGE = {MODULE: (2048, 2048, PART_BYTES // (4 * 4096))}
_STOP_AT = PART_BYTES + (2 << 20)

Work = Callable[[], Awaitable[None]]


class Stopped(Exception):
    """An upload was stopped midway, on purpose."""


@dataclass
class Books:
    """files: digests by adapter and name. loose: blobs that were acknowledged and no version names.

    sure: adapters that are there. torn: those whose push or deletion failed: there or not.
    wrong: what was answered with OK and is not so.
    """

    files: dict[str, dict[str, str]] = field(default_factory=dict)
    sure: set[str] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    loose: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


@cache
def large_adapter() -> tuple[bytes, bytes]:
    """The two files."""
    return adapter_bytes(LARGE)


class Lane:
    """A client, its folder, its books and its dice."""

    def __init__(self, client: RegistryClient, folder: Path, seed: int) -> None:
        self.client = client
        self.books = Books()
        self.dice = random.Random(seed)  # noqa: S311 - repeatable faults, no secret
        self._folder = folder
        self._count = 0

    async def begin(self) -> None:
        """A base, and an adapter that stays."""
        await self.client.register_base_model(BASE_NAME, base_for(LARGE))
        await self.push_small()()

    def push_small(self) -> Work:
        """Publish an adapter of up to 100 KB."""
        modules = {MODULE: (2048, 2048, self.dice.randint(1, 6))}
        return partial(self._push, f"adapter{self._next()}", adapter_bytes(modules, seed=self._count))

    def push_large(self) -> Work:
        """Publish an adapter whose weights are two parts."""
        config, weights = large_adapter()
        # Bytes of its own, which are the last numbers: small and finite.
        last = b"".join(bytes([0, 0, byte, 0x3C]) for byte in self.dice.randbytes(8))
        return partial(self._push, f"adapter{self._next()}", (config, weights[: -len(last)] + last))

    async def _push(self, name: str, files: tuple[bytes, bytes]) -> None:
        folder = self._folder / f"push{self._next()}"
        folder.mkdir()
        for file, data in zip((CONFIG, WEIGHTS), files, strict=True):
            (folder / file).write_bytes(data)
        self.books.files[name] = {CONFIG: digest_of(files[0]), WEIGHTS: digest_of(files[1])}
        self.books.torn.add(name)
        try:
            await self.client.push(folder, name, base=BASE_NAME)
        finally:
            shutil.rmtree(folder)
        self.books.torn.remove(name)
        self.books.sure.add(name)

    def upload(self) -> Work:
        """Send a blob of no adapter, of one part or of no byte."""
        return partial(self._upload, self.dice.randbytes(self.dice.choice([0, 1, 1000, 200_000])))

    def resume(self) -> Work:
        """Send a blob of two parts whose upload was stopped in the second one."""
        return partial(self._upload, self.dice.randbytes(_STOP_AT + (1 << 20)), _STOP_AT)

    async def _upload(self, data: bytes, stop: int | None = None) -> None:
        path, digest = self._folder / f"blob{self._next()}", digest_of(data)
        path.write_bytes(data)

        def watch(_name: str, done: int, _size: int) -> None:
            if stop is not None and done >= stop:
                raise Stopped

        try:
            with suppress(Stopped):
                await self.client.upload(path, digest, progress=watch)
            await self.client.upload(path, digest)
        finally:
            path.unlink()
        self.books.loose.add(digest)

    def pull(self) -> Work:
        """Fetch an adapter that is there, and look at every byte."""
        return partial(self._pull, self._any())

    async def _pull(self, name: str) -> None:
        folder = self._folder / f"pull{self._next()}"
        try:
            await self.client.pull(f"{name}@1", folder)
            wrong = {
                f for f, digest in self.books.files[name].items() if digest_of((folder / f).read_bytes()) != digest
            }
            self.books.wrong += [f"pulled {name}: {file}" for file in wrong]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def delete(self) -> Work:
        """Delete a version, but never the last one, and collect its blobs."""
        return partial(self._delete, self._any()) if len(self.books.sure) > 1 else self._collect

    async def _delete(self, name: str) -> None:
        self.books.sure.discard(name)
        self.books.torn.add(name)
        with suppress(NotFound):  # deleted already, by the same work before
            await self.client.delete_version(f"{name}@1", force=True)
        self.books.torn.remove(name)
        await self._collect()

    def collect(self) -> Work:
        """Collect what no version names."""
        return self._collect

    async def _collect(self) -> None:
        self.books.loose.clear()
        await self.client.collect_garbage(grace=timedelta())

    def check(self) -> Work:
        """Hash every byte that is stored; nothing is damaged there, so that a finding would be a lie."""
        return self._check

    async def _check(self) -> None:
        async for report in self.client.fsck():
            if report.HasField("finding"):
                self.books.wrong.append(f"fsck: {report.finding}")

    def _any(self) -> str:
        return self.dice.choice(sorted(self.books.sure))

    def _next(self) -> int:
        self._count += 1
        return self._count
