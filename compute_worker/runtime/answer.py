"""From a request's events to what its caller gets: deltas of certain text, and why it ended.

Owns the order of detokenising, stop strings and the end. Does not know the engine's thread or the
wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from compute_worker.contract import Drawn
from compute_worker.runtime.api import Delta, Finished, FinishReason, Stop
from compute_worker.runtime.job import Event, Left
from compute_worker.runtime.text import Detokenizer, StopScanner
from compute_worker.wording import Tokenizer
from lorry.errors import Cancelled, LorryError


class Answer:
    """The answer of one request as it grows."""

    def __init__(self, tokenizer: Tokenizer, stop: Stop) -> None:
        self._tokenizer = tokenizer
        self._text = Detokenizer(tokenizer)
        self._stops = StopScanner(stop.strings)
        self._tokens = 0

    def feed(self, events: Iterable[Event | LorryError]) -> Iterator[Delta | Finished]:
        """At most one Delta for all of these events, then Finished where it ended; the rest is not looked at.

        Raises the error that an event carries, after the Delta of what came before.
        """
        text, drawn = "", []
        end: Finished | LorryError | None = None
        for event in events:
            if isinstance(event, Drawn):
                drawn.append(event)
                piece, end = self._grow(event)
                text += piece
            elif isinstance(event, Left):
                piece, end = self._end(event)
                text += piece
            elif isinstance(event, LorryError):
                end = event
            if end is not None:
                break
        if text or drawn:
            yield Delta(text, tuple(drawn))
        if isinstance(end, LorryError):
            raise end
        if end is not None:
            yield end

    def _grow(self, drawn: Drawn) -> tuple[str, Finished | None]:
        self._tokens += 1
        piece, found = self._stops.push(self._text.push(drawn.token))
        return piece, None if found is None else Finished(FinishReason.STOP, found, self._tokens)

    def _end(self, left: Left) -> tuple[str, Finished | LorryError]:
        piece, found = self._stops.push(self._text.flush())
        if found is not None:
            return piece, Finished(FinishReason.STOP, found, self._tokens)
        piece += self._stops.flush()
        if left.reason is None:
            return piece, left.error or Cancelled("the request was cancelled")
        stop = ""
        if left.stop_token is not None:
            self._tokens += 1
            stop = self._tokenizer.decode([left.stop_token])
        return piece, Finished(left.reason, stop, self._tokens)
