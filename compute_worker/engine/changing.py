"""What a step's adapters change beyond products of pool rows: which change, of which module, for which tokens.

Owns the plan, made once for as long as the batch uses the same adapters, and how wide each row's logits are.
Does not know what a change does, nor who runs the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from compute_worker.engine.changes import Change, Use
from compute_worker.engine.experts import ExpertUse
from compute_worker.engine.layout import Layout, Run
from compute_worker.engine.pool import RankPool, Resident, lying_at

_C = TypeVar("_C")


@dataclass(frozen=True, slots=True)
class Changes:
    """Of one step. uses: by module, of its tokens, the head's of the kept ones. experts: likewise, within modules of
    experts. widths: of the logits of each kept token; None where all are the base's.
    """

    uses: Mapping[str, Sequence[Use[Change]]] = field(default_factory=dict)
    experts: Mapping[str, Sequence[ExpertUse]] = field(default_factory=dict)
    widths: Sequence[int] | None = None


# A step's whose adapters are products of pool rows alone.
NOTHING = Changes()


class Changing:
    """Plans the changes of the pool's adapters."""

    def __init__(self, pool: RankPool) -> None:
        self._pool = pool
        self._head, self._width = pool.head
        self._made: tuple[object, object, Changes] = (None, None, NOTHING)

    def of(self, layout: Layout) -> Changes:
        """A step's. Raises Internal where an adapter of the step does not lie in the pool."""
        residents = self._pool.residents
        used = {adapter.start: lying_at(adapter.start, residents) for run in layout.runs for adapter in run.adapters}
        changing = {start: resident for start, resident in used.items() if resident.changes or resident.experts}
        if not changing:
            return NOTHING
        key = (layout.runs, layout.kept_runs)
        if self._made[0] != key or self._made[1] is not residents:
            self._made = (key, residents, self._make(layout, changing))
        return self._made[2]

    def _make(self, layout: Layout, changing: Mapping[int, Resident]) -> Changes:
        def runs_of(name: str) -> Sequence[Run]:
            return layout.kept_runs if name == self._head else layout.runs

        changes = {start: resident.changes for start, resident in changing.items()}
        experts = {
            start: {name: (each,) for name, each in resident.experts.items()} for start, resident in changing.items()
        }
        widths = [self._width_of(run, changing) for run in layout.kept_runs for _ in range(run.begin, run.end)]
        return Changes(
            _plan(changes, runs_of),
            _plan(experts, runs_of),
            widths if any(width != self._width for width in widths) else None,
        )

    def _width_of(self, run: Run, changing: Mapping[int, Resident]) -> int:
        own = [changing[each.start].vocab for each in run.adapters if each.start in changing and each.weight]
        return next((vocab for vocab in own if vocab is not None), self._width)


def _plan(
    owned: Mapping[int, Mapping[str, Sequence[_C]]], runs_of: Callable[[str], Sequence[Run]]
) -> dict[str, Sequence[Use[_C]]]:
    """By module, what its runs use of what adapters have there. owned: by the first row of each."""
    plan: dict[str, Sequence[Use[_C]]] = {}
    for name in {name for own in owned.values() for name in own}:
        uses = tuple(
            Use(slice(run.begin, run.end), adapter.weight, change)
            for run in runs_of(name)
            for adapter in run.adapters
            # Weight 0 is left out rather than multiplied: nothing of that adapter may show.
            if adapter.start in owned and adapter.weight
            for change in owned[adapter.start].get(name, ())
        )
        if uses:
            plan[name] = uses
    return plan
