"""Tokens to text as it becomes certain, and the strings that end it.

Owns incremental detokenisation (whole characters only) and the search for stop strings over token
boundaries. Does not know the scheduler, the wire, or how a token was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from compute_worker.wording import Tokenizer

# What decoders write for bytes that are no character, or not yet one.
_REPLACEMENT = "\ufffd"
# A character of UTF-8 has at most 4 bytes, so at most 3 of them can wait for the rest.
_MAX_INCOMPLETE = 3
# Behind so many tokens without a whole character the text is rubbish rather than a character on its
# way: two characters spelt byte by byte take 8.
_MAX_HELD = 8
# The most that is decoded again with each token, whatever the tokens are (special ones have no text).
_MAX_WINDOW = 64
_KEPT = 48


class Detokenizer:
    """Text of one growing sequence of tokens.

    Decodes a short window that begins one certain piece before the new tokens, since decoders treat
    the beginning of a text in their own way. All pieces together equal the decoded whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._certain = 0  # tokens of the window whose text is whole
        self._sent = 0  # characters of the window's text that were handed out

    def push(self, token: int) -> str:
        """Text that became certain with this token; often a word, sometimes nothing."""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        waiting = max(0, min(len(text) - len(text.rstrip(_REPLACEMENT)), len(text) - self._sent))
        held = len(self._window) - self._certain
        if len(self._window) > _MAX_WINDOW:
            waiting = 0
        elif held > _MAX_HELD:
            waiting = min(waiting, _MAX_INCOMPLETE)
        piece = text[self._sent : len(text) - waiting]
        self._sent += len(piece)
        if held > _MAX_HELD:
            self._shorten(self._tail(waiting), waiting)
            self._certain = 0 if waiting else len(self._window)
        elif waiting == 0 and piece:
            self._shorten(self._certain, 0)
            self._certain = len(self._window)
        return piece

    def flush(self) -> str:
        """The rest, incomplete characters as they are decoded. The sequence has ended."""
        piece = self._tokenizer.decode(self._window)[self._sent :]
        self._sent += len(piece)
        return piece

    def _tail(self, waiting: int) -> int:
        """Where the window may begin, so that its end is decoded as it was."""
        for start in range(len(self._window) - 1, 0, -1):
            # An end that begins inside of the incomplete character has at most 2 characters.
            if len(self._tokenizer.decode(self._window[start:])) > _MAX_INCOMPLETE:
                return start
        return 0 if waiting else max(0, len(self._window) - _KEPT)

    def _shorten(self, start: int, waiting: int) -> None:
        self._window = self._window[start:]
        self._sent = max(0, len(self._tokenizer.decode(self._window)) - waiting)


class StopScanner:
    """Holds text back until it cannot be the beginning of a stop string any more.

    The string that is complete first ends the text; of two that are complete at once, the longer.
    So the outcome never depends on where the pieces were cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(Text that may be sent, the stop string that was found or None)."""
        held = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            _, at, stop = min(found)
            self._held = ""
            return held[:at], stop
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], None

    def flush(self) -> str:
        """What was held back. The text has ended."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
