"""Tokens to text as it becomes certain, and the strings that end it.

Owns incremental detokenisation (whole characters only) and the search for stop strings over token
boundaries. Does not know the scheduler, the wire, or how a token was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from compute_worker.contract import Tokenizer

# What decoders write for bytes that are no character, or not yet one.
_REPLACEMENT = "\ufffd"
# A character of UTF-8 has at most 4 bytes, so at most 3 of them can wait for the rest.
_MAX_INCOMPLETE = 3
# Behind so many tokens without a whole character the text is rubbish rather than a character on its
# way: two characters spelt byte by byte take 8. Bounds what is decoded again with each token.
_MAX_HELD = 8
# Tokens without any text (special ones) stay in the window, so that what follows is not decoded as
# the beginning of a text; but not without end.
_MAX_WINDOW = 16


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
        whole = text.rstrip(_REPLACEMENT)
        if len(whole) < len(text) and len(self._window) - self._certain > _MAX_HELD:
            return self._give_up(text, min(len(text) - len(whole), _MAX_INCOMPLETE))
        piece = whole[self._sent :]
        self._sent = max(self._sent, len(whole))
        if len(whole) == len(text) and (piece or len(self._window) > _MAX_WINDOW):
            self._shorten(self._certain, 0)
            self._certain = len(self._window)
        return piece

    def flush(self) -> str:
        """The rest, incomplete characters as they are decoded. The sequence has ended."""
        piece = self._tokenizer.decode(self._window)[self._sent :]
        self._sent += len(piece)
        return piece

    def _give_up(self, text: str, waiting: int) -> str:
        piece = text[self._sent : len(text) - waiting]
        self._shorten(len(self._window) - _MAX_INCOMPLETE - 1, waiting)
        self._certain = 0
        return piece

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
