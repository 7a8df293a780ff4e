"""From an adapter's bytes to facts and host tensors, while they come.

Owns the guard that every adapter passes before it is used, pulled or combined here alike: header and
configuration before any value, every value before its tensor is handed on. Bytes come in one thread,
from the network or from the disk, tensors are looked at and cast in another. Does not know tiers, files
or digests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from compute_worker.contract import AdapterReading, HostAdapter
from compute_worker.runtime.incoming import pieces
from lorry.errors import InvalidAdapter, LorryError
from lorry.format.base import BaseFacts
from lorry.format.compatibility import judge, refuse
from lorry.format.config import MAX_CONFIG, parse_config
from lorry.format.derive import derive_facts
from lorry.format.facts import AdapterFacts
from lorry.format.finite import check_values
from lorry.format.header import LENGTH_BYTES, TensorEntry, TensorIndex, header_length, parse_header

# The adapters of a worker come in few forms. An outline of the most tensors that are taken is 2 MB.
_OUTLINES = 8
# Bytes of tensors that are looked at together: many small ones in one go, and still within a core's cache.
_RUN_BYTES = 1 << 18

# Neighbours of one type.
_Run: TypeAlias = tuple[TensorEntry, ...]
# Of configuration, header and size of the weights: what follows from them alone, and the tensors in their order.
# Raises InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter.
Outlines: TypeAlias = Callable[[bytes, bytes, int], tuple[AdapterFacts, Sequence[_Run]]]


def outlines_on(base: BaseFacts) -> Outlines:
    """Outlines of what fits a base. The latest are kept: adapters that differ in their values alone have one."""

    @lru_cache(_OUTLINES)
    def outline(config: bytes, header: bytes, size: int) -> tuple[AdapterFacts, Sequence[_Run]]:
        index = parse_header(header, size)
        facts = derive_facts(parse_config(config), index)
        # The claim that counts is the manifest's base_id, compared before: the configuration's name is free text.
        refuse(judge(facts, base, claimed=base))
        return facts, tuple(_runs(index))

    return outline


def _runs(index: TensorIndex) -> Iterator[_Run]:
    run: list[TensorEntry] = []
    for tensor in index.tensors:
        if run and (tensor.dtype != run[0].dtype or tensor.end - run[0].start > _RUN_BYTES):
            yield tuple(run)
            run = []
        run.append(tensor)
    if run:
        yield tuple(run)


def at_once(work: Callable[[], None]) -> None:
    """Do the work here and now."""
    work()


class Parsing:
    """A Look at the weights of an adapter; `config` is its configuration, verified.

    known: whether this digest passed the guard before, so that its values need not be looked at. begin: who takes
    the tensors, None where the facts are all that is asked for. submit: has work done, soon and in whatever thread.
    Raises InvalidAdapter, UnsupportedAdapter on the configuration.
    """

    def __init__(
        self,
        config: Path,
        size: int,
        outlines: Outlines,
        begin: Callable[[AdapterFacts], AdapterReading] | None = None,
        *,
        known: bool = False,
        submit: Callable[[Callable[[], None]], object] = at_once,
    ) -> None:
        with config.open("rb") as file:
            self._config = file.read(MAX_CONFIG + 1)  # one more than is taken
        parse_config(self._config)
        self._size = size
        self._outlines = outlines
        self._known = known
        self._open = begin
        self._submit = submit
        self._turn = Lock()  # of whoever works on tensors
        self.restart()

    def restart(self) -> None:
        """See Look."""
        with self._turn:
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._seen = 0
        self._whole: deque[tuple[_Run, bytearray]] = deque()  # tensors that wait for their turn
        self._handed = 0  # of the first run: tensors that had theirs
        self._called = False  # whether somebody was called to them and has not left
        self._error: LorryError | None = None
        self._head = bytearray()
        self._facts: AdapterFacts | None = None
        self._reading: AdapterReading | None = None
        self._runs: Iterator[_Run] = iter(())
        self._run: _Run | None = None
        self._values = bytearray()
        self._filled = 0

    def take(self, data: memoryview) -> None:
        """See Look. What is wrong is remembered: whether these are the adapter's bytes is not known yet."""
        self._seen += len(data)
        if self._error is None:
            try:
                self._take(data)
            except LorryError as error:
                self._error = error

    def read(self, weights: Path) -> None:
        """See the file, where the stream that this was to look at was another's. Raises OSError."""
        if self._seen != self._size:
            self.restart()
            for piece in pieces(weights):
                self.take(piece)

    def facts(self) -> AdapterFacts:
        """What the adapter is, once all of it was seen.

        Raises InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter.
        """
        self._work(wait=True)
        if self._error is not None:
            raise self._error
        if self._facts is None or self._run is not None or self._seen != self._size:
            raise InvalidAdapter(f"safetensors: expected {self._size} bytes, got {self._seen}")
        return self._facts

    def host(self) -> HostAdapter:
        """Its tensors, ready to be installed. Raises as `facts`."""
        self.facts()
        if self._reading is None:
            raise ValueError("nobody was there to take the tensors")
        return self._reading.finish()

    def _take(self, data: memoryview) -> None:
        while self._facts is None and len(data):
            data = self._take_header(data)
        while self._run is not None and (len(data) or not self._values):
            data = self._take_values(self._run, data)
        # Not for each tensor: to wake a thread takes as long as a small one.
        if self._whole and not self._called:
            self._called = True
            self._submit(self._work)

    def _take_header(self, data: memoryview) -> memoryview:
        head = self._head
        missing = (header_length(bytes(head)) if len(head) >= LENGTH_BYTES else LENGTH_BYTES) - len(head)
        head += data[:missing]
        if len(head) >= LENGTH_BYTES and len(head) == header_length(bytes(head)):
            self._begin(bytes(head))
        return data[missing:]

    def _begin(self, header: bytes) -> None:
        facts, runs = self._outlines(self._config, header, self._size)
        if self._open is not None:
            self._reading = self._open(facts)
        self._facts, self._runs = facts, iter(runs)
        self._next()

    def _next(self) -> None:
        self._run = next(self._runs, None)
        self._values = bytearray(self._run[-1].end - self._run[0].start if self._run else 0)
        self._filled = 0

    def _take_values(self, run: _Run, data: memoryview) -> memoryview:
        part = data[: len(self._values) - self._filled]
        self._values[self._filled : self._filled + len(part)] = part
        self._filled += len(part)
        if self._filled == len(self._values):
            self._whole.append((run, self._values))
            self._next()
        return data[len(part) :]

    def _work(self, *, wait: bool = False) -> None:
        """Look at the tensors that are whole, and hand them on, unless somebody is at it; `facts` sees to the rest."""
        if not self._turn.acquire(blocking=wait):
            return
        try:
            while self._whole and self._error is None:
                self._hand_on(*self._whole[0])  # what fails for another reason fails again, in `facts`
                self._whole.popleft()
                self._handed = 0
        except LorryError as error:
            self._error = error
        finally:
            self._called = False
            self._turn.release()

    def _hand_on(self, run: _Run, values: bytearray) -> None:
        if not self._known:
            check_values(run, values)
        if self._reading is None:
            return
        begin, bytes_of = run[0].start, memoryview(values)
        for tensor in run[self._handed :]:
            self._reading.take(tensor, bytes_of[tensor.start - begin : tensor.end - begin])
            self._handed += 1


def inspect(config: Path, weights: Path, base: BaseFacts) -> AdapterFacts:
    """What the files are, every value looked at. Slow; any thread.

    Raises InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter, OSError.
    """
    parsing = Parsing(config, weights.stat().st_size, outlines_on(base))
    parsing.read(weights)
    return parsing.facts()
