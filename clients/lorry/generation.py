"""One generation: its request out of keywords, and its answer as it streams in.

Owns the spelling of prompts, sampling and stop conditions, and the life of the stream. Judges only
what cannot be written down as a request; the worker judges values.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorry.errors import InvalidInput
from lorry.selection import Adapters, selection
from lorry.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are drawn; None leaves it to the worker (greedy). See Sampling in inference.proto."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class StopOptions:
    """When to end. `max_new_tokens` 0 leaves it to the worker. See StopConditions in inference.proto."""

    max_new_tokens: int = 0
    strings: Sequence[str] = ()
    token_ids: Sequence[int] = ()
    ignore_eos: bool = False


# A message of a conversation: ("user", "Hello") or {"role": "user", "content": "Hello"}.
Message = tuple[str, str] | Mapping[str, str]
