"""What the KV cache of a text depends on, as keys: equal keys mean equal keys and values.

Owns the keys: a chain of hashes over whole blocks of tokens that begins with who asked and which
adapters, by digest and weight, were active, and turns where others become active. So a key never means
another selection, and an alias that moves leads to other keys. The base is not in them: a worker has one.
Does not know blocks.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence

from compute_worker.runtime.version import Choice


def beginning(owner: str, choices: Iterable[Choice]) -> bytes:
    """Key of the empty text under this selection.

    owner: who may share it, empty for everybody. Whether a prompt was seen before can be told from the
    time of an answer, so callers who must not see each other's data share nothing.
    """
    parts = [owner, *((choice.version.digest, choice.weight) for choice in choices)]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def turned(key: bytes, place: int, scope: bytes) -> bytes:
    """Key of a text whose adapters change `place` tokens behind its end, in the next block, to those of `scope`."""
    return hashlib.sha256(b"turned" + key + array("q", [place]).tobytes() + scope).digest()


def behind(key: bytes, tokens: Sequence[int]) -> bytes:
    """Key of the text that goes on with one block of tokens."""
    return hashlib.sha256(key + array("q", tokens).tobytes()).digest()
