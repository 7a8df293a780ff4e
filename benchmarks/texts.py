"""Prompts of real text, never the same one twice.

Owns the demo's texts as one ring of token ids, and where the last prompt began. A prompt that came
twice would be found in a prefix cache, and the benchmarks measure work, not memory.
"""

from __future__ import annotations

import json
from math import gcd
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
_TEXTS = ("letter", "pirate", "emoji", "json")
# Neighbouring prompts share no line: the demo's are shorter than that many tokens.
_STRIDE = 97


class Prompts:
    """Windows of the ring, each from another place."""

    def __init__(self, model: str) -> None:
        lines = [
            line for name in _TEXTS for line in (ROOT / "demo" / "data" / f"{name}.jsonl").read_text().splitlines()
        ]
        text = "\n".join("{prompt} {answer}".format(**json.loads(line)) for line in lines)
        self._ids = Tokenizer.from_file(str(Path(model) / "tokenizer.json")).encode(text).ids
        # Places come again only after all of them: the stride must not divide the ring.
        self._stride = next(step for step in range(_STRIDE, len(self._ids)) if gcd(step, len(self._ids)) == 1)
        self._drawn = 0

    def fresh(self, count: int, length: int) -> list[list[int]]:
        """`count` prompts of `length` ids. Raises ValueError once every place of the text was a beginning."""
        if self._drawn + count > len(self._ids):
            raise ValueError(f"expected at most {len(self._ids)} prompts, got {self._drawn + count}")
        places = [(self._drawn + i) * self._stride % len(self._ids) for i in range(count)]
        self._drawn += count
        return [self._window(place, length) for place in places]

    def _window(self, place: int, length: int) -> list[int]:
        rounds = 1 + (place + length) // len(self._ids)
        return (self._ids * rounds)[place : place + length]
