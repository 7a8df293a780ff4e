"""What came of a load: answers with what served them, refusals by type, and whatever was wrong.

Owns the figures. Does not know who asked, nor what is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from lorry.errors import (
    AdapterInUse,
    AdapterPinned,
    CacheBusy,
    DeadlineExceeded,
    LorryError,
    QueueFull,
)
from tests.load.asking import Asked
from tests.load.meanings import Selection
from tests.load.stock import Recipe

# What a crowded worker may answer; anything else ends the load.
REFUSALS = (AdapterInUse, AdapterPinned, CacheBusy, DeadlineExceeded, QueueFull)


@dataclass(frozen=True)
class Output:
    """An answer, whole or left in its midst. reason: of FinishReason, 0 where the client left."""

    asked: Asked
    served: Selection
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    reason: int


@dataclass(frozen=True)
class Scored:
    """The score of a continuation, token by token: (token, log-probability, whether it was the likeliest)."""

    prompt: str
    continuation: str
    served: Selection
    tokens: tuple[tuple[int, float, bool], ...]


@dataclass
class Record:
    """goal: answers that end the load. recipes: of combinations, by digest. wrong: in words."""

    goal: int
    outputs: list[Output] = field(default_factory=list)
    scores: list[Scored] = field(default_factory=list)
    cancelled: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Answers that came to their end."""
        return len(self.outputs) + len(self.scores) - self.cancelled

    @property
    def over(self) -> bool:
        """Whether nobody is to ask for more."""
        return self.done >= self.goal

    def refuse(self, error: LorryError) -> None:
        """Count a refusal. Raises one that no load explains."""
        if not isinstance(error, REFUSALS):
            raise error
        self.refused[type(error).__name__] += 1

    def figures(self, close: int, worker: Mapping[str, float]) -> str:
        """One line for people. close: tokens at which rounding decided. worker: what it counted itself."""
        actions = ", ".join(f"{count} {action}" for action, count in sorted(self.actions.items()))
        counted = ", ".join(f"{count:g} {name}" for name, count in worker.items())
        refused = ", ".join(f"{count} {kind}" for kind, count in sorted(self.refused.items())) or "nothing"
        return (
            f"{self.done} outputs ({len(self.scores)} scores), {len(self.wrong)} wrong, {close} tokens within "
            f"rounding; {self.cancelled} cancels, {actions}; {counted}; refused: {refused}"
        )
