"""A request inside of the scheduler, and what its caller is told of it.

Owns plain values: what is to be computed, how far it is, and the events from the first to the last.
Does not know the order of requests, nor the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from compute_worker.contract import ActiveAdapter, Drawn, Sampling, Scored, StepRow
from compute_worker.runtime import prefix
from compute_worker.runtime.api import FinishReason
from compute_worker.runtime.lookup import PromptLookup
from compute_worker.wording import Guide
from lorry.errors import LorryError


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request runs from now on."""


@dataclass(frozen=True, slots=True)
class Left:
    """The request is out; its blocks are free and no step uses its adapters any more. Comes once.

    reason: why it ended by itself, None where it was cancelled or failed. stop_token: the token
    that ended it, which is not part of the answer. error: what made it fail.
    """

    reason: FinishReason | None = None
    stop_token: int | None = None
    error: LorryError | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """From position `start` of the context on, these adapters are active. scope: see prefix.beginning."""

    start: int
    adapters: tuple[ActiveAdapter, ...]
    scope: bytes


Event = Admitted | Drawn | Scored | Left


@dataclass(eq=False, slots=True)
class Job:
    """A request inside of the scheduler.

    number: order of arrival. context: prompt, then the answer as it grows. tenant: who shares fairly
    with others. priority: order among the tenant's own requests, larger first. adapters, scope: what is
    active from the beginning, and the key of the empty text under it, see prefix. later: what is active
    further on, in order. sink: takes the events, called on the event loop. guide: keeps the answer to its
    form. lookup: drafts its next tokens. targets: nothing is drawn, but each of these scored: how likely it
    follows one of the context's last tokens.
    """

    number: int
    context: list[int]
    max_new: int
    adapters: tuple[ActiveAdapter, ...]
    sampling: Sampling
    stop_tokens: frozenset[int]
    sink: Callable[[Event], None]
    tenant: str = ""
    priority: int = 0
    scope: bytes = b""
    later: tuple[Phase, ...] = ()
    guide: Guide | None = None
    lookup: PromptLookup | None = None
    targets: Sequence[int] = ()
    blocks: list[int] = field(default_factory=list)
    computed: int = 0  # tokens of the context that are in the KV cache
    reached: int = 0  # the most that ever were: beyond it nothing was computed yet, up to it only lost again
    cached: int = 0  # tokens of the prompt that were found in the KV cache; final once a token was drawn
    drawn: int = 0
    scored: int = 0  # of the targets
    begun: bool = False
    _keys: list[bytes] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Tokens that are to be run before the next one can be drawn."""
        return len(self.context) - self.computed

    @property
    def stretch(self) -> int:
        """Tokens that can be run at once: up to the end, or to where other adapters become active."""
        turns = (phase.start for phase in self.later if phase.start > self.computed)
        return next(turns, len(self.context)) - self.computed

    @property
    def unscored(self) -> int:
        """The first token behind which there is something to draw or to score: it is run whatever was computed."""
        return len(self.context) - max(1, len(self.targets) - self.scored)

    def key(self, block: int, block_tokens: int) -> bytes:
        """What the KV of the context up to the end of this block depends on; the block is full."""
        while len(self._keys) <= block:
            begin = len(self._keys) * block_tokens
            before = self._keys[-1] if self._keys else self.scope
            for phase in self.later:
                if begin <= phase.start < begin + block_tokens:
                    before = prefix.turned(before, phase.start - begin, phase.scope)
            self._keys.append(prefix.behind(before, self.context[begin : begin + block_tokens]))
        return self._keys[block]

    def row(self, size: int) -> StepRow:
        """The next `size` tokens, at most `stretch`, as the engine takes them; the blocks for them are there."""
        end = self.computed + size
        begun = [phase.adapters for phase in self.later if phase.start <= self.computed]
        draws = end == len(self.context) and not self.targets
        return StepRow(
            tokens=self.context[self.computed : end],
            position=self.computed,
            blocks=tuple(self.blocks),
            adapters=begun[-1] if begun else self.adapters,
            sample=self.sampling if draws else None,
            context=self.context,
            index=self.drawn,
            allowed=self.guide.allowed() if draws and self.guide is not None else None,
            targets=self.targets[self.scored : max(self.scored, len(self.targets) - len(self.context) + end)],
        )


# What a step computes: the request and its row.
Planned = tuple[Job, StepRow]
# What came of it, to be handed to the request's sink.
Outcome = tuple[Job, Event]
