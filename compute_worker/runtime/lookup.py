"""Drafts by prompt lookup: what followed a text's last tokens where they stood before, in the same text.

Owns the places of each short sequence of tokens, and how long a draft is worth making. A draft is a guess: whoever
uses it verifies it. Does not know models, steps, or which texts others have: what one request holds never shows in
another's.
"""

from __future__ import annotations

from collections.abc import Sequence

# Tokens that must have stood before: the more of them, the more often the next ones are the same again.
_SIZES = (3, 2)
# Length of the first draft. It grows by two where a draft was right and shrinks by one where it was not, as
# transformers' assisted generation does it.
_FIRST = 2
_LONGER, _SHORTER = 2, 1
# Tokens of a text that are looked through, its last ones: some 5 ms and 2 MB the first time.
REACH = 8192


class PromptLookup:
    """Drafts for one text, which only grows."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}  # where the last occurrence ended, by the tokens
        self._looked = 0
        self._length = _FIRST
        self._last: list[int] = []

    def draft(self, text: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may come next, none where the text's end is new to it.

        A draft that reaches the text's end goes on with itself, so that what repeats is repeated.
        """
        self._judge(text)
        self._look(text)
        places = (self._places.get(tuple(text[-size:])) for size in _SIZES)
        place = next((place for place in places if place is not None), None)
        if place is not None:
            for at in range(place, place + min(most, self._length)):
                self._last.append(text[at] if at < len(text) else self._last[at - len(text)])
        return list(self._last)

    def _judge(self, text: Sequence[int]) -> None:
        """See what became of the last draft."""
        if self._last:
            came = list(text[self._looked : self._looked + len(self._last)])
            self._length = self._length + _LONGER if came == self._last else max(1, self._length - _SHORTER)
            self._last = []

    def _look(self, text: Sequence[int]) -> None:
        """Take in every sequence that something follows: all but the text's end, as far back as REACH."""
        for end in range(max(self._looked, len(text) - REACH), len(text)):
            for size in _SIZES:
                if end >= size:
                    self._places[tuple(text[end - size : end])] = end
        self._looked = len(text)
