"""What a step's adapters change beyond products of pool rows: which change, of which module, for which tokens.

Owns the plan, made once for as long as the batch uses the same adapters, and how wide each row's logits are.
Does not know what a change does, nor who runs the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from compute_worker.engine.changes import Use
from compute_worker.engine.layout import Layout, Run
from compute_worker.engine.pool import RankPool, Resident, lying_at


@dataclass(frozen=True, slots=True)
class Changes:
    """Of one step. uses: by module, of its tokens, the head's of the kept ones. widths: of the logits of each kept
    token; None where all are the base's.
    """

    uses: Mapping[str, Sequence[Use]] = field(default_factory=dict)
    widths: Sequence[int] | None = None


_NOTHING = Changes()


class Changing:
    """Plans the changes of the pool's adapters."""

    def __init__(self, pool: RankPool) -> None:
        self._pool = pool
        self._head, self._width = pool.head
        self._made: tuple[object, object, Changes] = (None, None, _NOTHING)

    def of(self, layout: Layout) -> Changes:
        """A step's. Raises Internal where an adapter of the step does not lie in the pool."""
        residents = self._pool.residents
        used = {adapter.start: lying_at(adapter.start, residents) for run in layout.runs for adapter in run.adapters}
        changing = {start: resident for start, resident in used.items() if resident.changes}
        if not changing:
            return _NOTHING
        key = (layout.runs, layout.kept_runs)
        if self._made[0] != key or self._made[1] is not residents:
            self._made = (key, residents, self._make(layout, changing))
        return self._made[2]

    def _make(self, layout: Layout, changing: Mapping[int, Resident]) -> Changes:
        uses: dict[str, Sequence[Use]] = {}
        for name in {name for resident in changing.values() for name in resident.changes}:
            runs = layout.kept_runs if name == self._head else layout.runs
            if each := tuple(_uses(name, runs, changing)):
                uses[name] = each
        widths = [self._width_of(run, changing) for run in layout.kept_runs for _ in range(run.begin, run.end)]
        return Changes(uses, widths if any(width != self._width for width in widths) else None)

    def _width_of(self, run: Run, changing: Mapping[int, Resident]) -> int:
        own = [changing[each.start].vocab for each in run.adapters if each.start in changing and each.weight]
        return next((vocab for vocab in own if vocab is not None), self._width)


def _uses(name: str, runs: Sequence[Run], changing: Mapping[int, Resident]) -> Iterator[Use]:
    for run in runs:
        for adapter in run.adapters:
            # Weight 0 is left out rather than multiplied: nothing of that adapter may show.
            if adapter.start in changing and adapter.weight:
                for change in changing[adapter.start].changes.get(name, ()):
                    yield Use(slice(run.begin, run.end), adapter.weight, change)
