"""What runs a step's forward: the Protocol of the executors.

Owns the shape of their answer. The hooked one runs transformers' own modules and serves every
architecture; the fast one runs kernels over the parts of the models that it recognises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from compute_worker.engine.layout import Layout


@dataclass(frozen=True, slots=True)
class Scores:
    """What a step gave to draw from.

    logits: [needed, vocabulary] of the kept tokens that were asked for. best: the most probable token
    behind each of the others, in order. widths: how many of its columns are each line's own vocabulary, None
    where all are; the others are -inf.
    """

    logits: Tensor
    best: Sequence[int]
    widths: Sequence[int] | None = None


class Executor(Protocol):
    """Runs one batch after the other over one model, its pool and its KV cache."""

    @property
    def name(self) -> str:
        """Which one it is, for the log and GetCapabilities."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that it keeps for itself, beside the model's."""

    @property
    def draft_tokens(self) -> int:
        """See EngineLimits."""

    def run(self, layout: Layout, needed: Sequence[int]) -> Scores:
        """Run one batch. needed: indices into `layout.kept` whose logits are wanted, ascending."""


def chosen(logits: Tensor, layout: Layout, needed: Sequence[int], widths: Sequence[int] | None) -> Scores:
    """The answer from the logits of every kept token, [kept, vocabulary], and the width of each."""
    for line, width in enumerate(widths or ()):
        logits[line, width:] = float("-inf")
    plain = others(layout, needed)
    best = logits[plain].argmax(-1).tolist() if plain else []
    return Scores(logits[list(needed)], best, None if widths is None else [widths[line] for line in needed])


def others(layout: Layout, needed: Sequence[int]) -> list[int]:
    """The kept tokens of which only the best is wanted."""
    wanted = set(needed)
    return [index for index in range(len(layout.kept)) if index not in wanted]
