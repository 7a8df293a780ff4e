"""From an adapter's bytes to facts and host tensors, while they come.

Owns the guard that every adapter passes before it is used, pulled or combined here alike: header and
configuration before any value, every value before its tensor is handed on. Bytes come in one thread,
from the network or from the disk, tensors are looked at and cast in another. Does not know tiers, files
or digests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock

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


def at_once(work: Callable[[], None]) -> None:
    """Do the work here and now."""
    work()


class Parsing:
    """A Look at the weights of an adapter; `config` is its configuration, verified.

    known: the facts, where this digest passed the guard before. begin: who takes the tensors, None where
    the facts are all that is asked for. submit: has work done, soon and in whatever thread. Raises
    InvalidAdapter, UnsupportedAdapter on the configuration.
    """

    def __init__(
        self,
        config: Path,
        size: int,
        base: BaseFacts,
        known: AdapterFacts | None = None,
        begin: Callable[[AdapterFacts], AdapterReading] | None = None,
        *,
        submit: Callable[[Callable[[], None]], object] = at_once,
    ) -> None:
        with config.open("rb") as file:
            self._config = parse_config(file.read(MAX_CONFIG + 1))  # one more than is taken
        self._size = size
        self._base = base
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
        self._whole: deque[tuple[TensorEntry, bytearray]] = deque()  # tensors that wait for their turn
        self._error: LorryError | None = None
        self._head = bytearray()
        self._index: TensorIndex | None = None
        self._facts = self._known
        self._reading: AdapterReading | None = None
        self._tensors: Iterator[TensorEntry] = iter(())
        self._tensor: TensorEntry | None = None
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
        if self._facts is None or self._tensor is not None or self._seen != self._size:
            raise InvalidAdapter(f"safetensors: expected {self._size} bytes, got {self._seen}")
        return self._facts

    def host(self) -> HostAdapter:
        """Its tensors, ready to be installed. Raises as `facts`."""
        self.facts()
        if self._reading is None:
            raise ValueError("nobody was there to take the tensors")
        return self._reading.finish()

    def _take(self, data: memoryview) -> None:
        while self._index is None and len(data):
            data = self._take_header(data)
        while self._tensor is not None and (len(data) or not self._values):
            data = self._take_values(self._tensor, data)

    def _take_header(self, data: memoryview) -> memoryview:
        head = self._head
        missing = (header_length(bytes(head)) if len(head) >= LENGTH_BYTES else LENGTH_BYTES) - len(head)
        head += data[:missing]
        if len(head) >= LENGTH_BYTES and len(head) == header_length(bytes(head)):
            self._begin(parse_header(bytes(head), self._size))
        return data[missing:]

    def _begin(self, index: TensorIndex) -> None:
        self._index = index
        if self._facts is None:
            facts = derive_facts(self._config, index)
            # The claim that counts is the manifest's base_id, compared before: the configuration's name is free text.
            refuse(judge(facts, self._base, claimed=self._base))
            self._facts = facts
        if self._open is not None:
            self._reading = self._open(self._facts)
        self._tensors = iter(index.tensors)
        self._next()

    def _next(self) -> None:
        self._tensor = next(self._tensors, None)
        self._values = bytearray(self._tensor.end - self._tensor.start if self._tensor else 0)
        self._filled = 0

    def _take_values(self, tensor: TensorEntry, data: memoryview) -> memoryview:
        part = data[: len(self._values) - self._filled]
        self._values[self._filled : self._filled + len(part)] = part
        self._filled += len(part)
        if self._filled == len(self._values):
            self._whole.append((tensor, self._values))
            self._submit(self._work)
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
        except LorryError as error:
            self._error = error
        finally:
            self._turn.release()

    def _hand_on(self, tensor: TensorEntry, values: bytearray) -> None:
        if self._known is None:
            check_values(tensor, values)
        if self._reading is not None:
            self._reading.take(tensor, values)


def inspect(config: Path, weights: Path, base: BaseFacts) -> AdapterFacts:
    """What the files are, every value looked at. Slow; any thread.

    Raises InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter, OSError.
    """
    parsing = Parsing(config, weights.stat().st_size, base)
    parsing.read(weights)
    return parsing.facts()
