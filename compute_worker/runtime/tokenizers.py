"""Whose tokenizer a request is read and written with: the base's, or the one that its adapter brings along.

Owns the choice, and the tokenizers that were loaded, of which it keeps the latest. A tokenizer is known by
the digests of its files, so adapters that share one share it here, too. Does not know how it works, nor
what is said with it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from compute_worker.runtime.disk import DiskCache
from compute_worker.runtime.loader import Loader
from compute_worker.runtime.version import SLOW_NAMES, TOKENIZER_NAME, Choice, Version
from compute_worker.runtime.waiting import SingleFlight, Turns
from compute_worker.wording import Tokenizer
from lorry.errors import InvalidAdapter, InvalidSelection, UnsupportedAdapter

_T = TypeVar("_T")

# The largest of today (vocabularies of 262,144 tokens) has 33 MB, with a configuration of 1 MB that lists them again.
MAX_TOKENIZER_BYTES = 64 << 20
MAX_TEXT_BYTES = 4 << 20
# Of files; in memory a tokenizer takes some 5 times as much. One is kept however large it is.
_KEPT_BYTES = 64 << 20


class Desk:
    """A thread that everybody's work goes through, one piece of each tenant's at a time."""

    def __init__(self, name: str) -> None:
        self._turns = Turns()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, tenant: str, work: Callable[[], _T]) -> _T:
        """What the work gives, or raises."""
        async with self._turns.of(tenant):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Take no more work, and wait for the piece at hand."""
        self._thread.shutdown()


@dataclass(frozen=True, slots=True)
class Wording:
    """How a request is read and written. texts: where they become tokens. digest: of the files behind it,
    empty for the base's own. tokens: whether its tokens are the adapter's, too, and not its chat template alone.
    """

    tokenizer: Tokenizer
    texts: Desk
    digest: str = ""
    tokens: bool = False

    def vocabulary(self, own: int | None) -> int:
        """Tokens that the request may have. own: of a vocabulary that its adapter brought, None for the model's.

        Raises InvalidAdapter where the adapter brought tokens for which there is no place.
        """
        vocab = self.tokenizer.vocab_size if own is None else own
        if self.tokens and self.tokenizer.size > vocab:
            raise InvalidAdapter(
                f"the adapter's tokenizer has ids up to {self.tokenizer.size - 1}, its vocabulary has {vocab} tokens: "
                "save the resized embeddings with it, or publish it without its tokenizer"
            )
        return vocab


class Tokenizers:
    """Belongs to the event loop; loads in the executor's threads. base: the model's own."""

    def __init__(self, base: Tokenizer, disk: DiskCache, loader: Loader, executor: Executor) -> None:
        self._base = base
        self._disk = disk
        self._loader = loader
        self._executor = executor
        self._texts = Desk("lorry-text")
        # What a stranger's template or tokenizer takes its time for holds up its like alone.
        self._strange_texts = Desk("lorry-strange")
        # Not beside the texts: a form may take a second to be compiled.
        self.forms = Desk("lorry-form")
        self._kept: OrderedDict[str, tuple[Tokenizer, int]] = OrderedDict()
        self._flight: SingleFlight[Tokenizer] = SingleFlight()

    async def of(self, choices: Sequence[Choice]) -> Wording:
        """What serves these choices. Raises InvalidSelection where they bring different ones, InvalidAdapter,
        UnsupportedAdapter, and what DiskCache.hold raises.
        """
        version = spokesman(choices)
        if version is None:
            return Wording(self._base, self._texts)
        digest = version.wording_digest
        if digest in self._kept:
            self._kept.move_to_end(digest)
            tokenizer, _ = self._kept[digest]
        else:
            tokenizer = await self._flight.run(digest, lambda: self._load(version))
        tokens = any(file.name == TOKENIZER_NAME for file in version.wording)
        return Wording(tokenizer, self._strange_texts, digest, tokens)

    async def close(self) -> None:
        """Stop loading, and wait for what is being read."""
        await self._flight.close()
        for desk in (self._texts, self._strange_texts, self.forms):
            desk.close()

    async def _load(self, version: Version) -> Tokenizer:
        _check_files(version)
        files = version.wording
        async with self._disk.hold(files, self._loader.fetch_for(version)) as paths:
            named = {file.name: path for file, path in zip(files, paths, strict=True)}
            tokenizer = await asyncio.get_running_loop().run_in_executor(self._executor, self._base.beside, named)
        self._kept[version.wording_digest] = tokenizer, sum(file.size for file in files)
        while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return tokenizer


def spokesman(choices: Sequence[Choice]) -> Version | None:
    """The version whose tokenizer or chat template serves; None where none of the active ones brings any.

    Who brings none goes by what the others bring. Raises InvalidSelection where they bring different ones.
    """
    names, different = brought(choices)
    if len(different) > 1:
        raise InvalidSelection(
            f"{' and '.join(names)} bring different tokenizers or chat templates: expected the same, by digest"
        )
    return next(iter(different), None)


def brought(choices: Sequence[Choice]) -> tuple[list[str], list[Version]]:
    """The active adapters that bring a tokenizer or a chat template, and a version for each different one."""
    bringing = [choice for choice in choices if choice.weight and choice.version.wording]
    different = {choice.version.wording_digest: choice.version for choice in reversed(bringing)}
    return [choice.adapter for choice in bringing], list(different.values())


def _check_files(version: Version) -> None:
    """Raise UnsupportedAdapter for what is not read."""
    slow = sorted(file.name for file in version.wording if file.name in SLOW_NAMES)
    if slow:
        raise UnsupportedAdapter(
            f"expected a tokenizer as {TOKENIZER_NAME}, got {', '.join(slow)} alone: save it with a fast tokenizer of "
            "transformers, or publish the adapter without it"
        )
    for file in version.wording:
        limit = MAX_TOKENIZER_BYTES if file.name == TOKENIZER_NAME else MAX_TEXT_BYTES
        if file.size > limit:
            raise UnsupportedAdapter(f"{file.name}: expected at most {limit} bytes, got {file.size}")
