"""`make bench-goals`: each goal beside what was measured last, as a Markdown table.

Owns the goals. Reads benchmarks/results/PEER/CASE.json; measures nothing. A goal against several peers
is one against the best of them; a peer that was not measured is said, not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer import KINDS
from benchmarks.report import NOISY, shown
from benchmarks.serving import RESULTS


@dataclass(frozen=True, slots=True)
class Goal:
    """At least `ratio` times better than the best of `peers`; with `ours`, our own value is at most that."""

    case: str
    peers: tuple[str, ...]
    ratio: float = 0.0
    ours: float = 0.0

    @property
    def text(self) -> str:
        """As in the table."""
        return f"ours <= {self.ours:g}" if self.ours else f">= {self.ratio:,g}x"

    def met(self, result: dict[str, Any]) -> bool:
        """Whether a result reaches it."""
        return bool(result["ours"] <= self.ours if self.ours else result["ratio"] >= self.ratio)


GOALS = (
    Goal("A", ("vllm-bare", "llama"), 1.7),
    Goal("B", ("peft", "vllm", "llama"), 2.2),
    Goal("C", ("vllm-bare",), 1.2),
    Goal("C", ("vllm",), 2.3),
    Goal("C", ("peft",), 3),
    Goal("D", ("peft",), 4),
    Goal("D", ("vllm",), 7),
    Goal("E", ("vllm",), 6.5),
    Goal("E", ("peft",), 8),
    Goal("F", ("vllm",), 5.5),
    Goal("F", ("peft",), 20),
    Goal("I", ("vllm-bare",), 1),
    Goal("I", ("peft",), 2.5),
    Goal("J", ("vllm",), 10),
    Goal("H", ("vllm",), 3),
    Goal("switch", ("peft",), 1_000),
    Goal("load", ("peft",), ours=1.1),
    Goal("rss", ("vllm",), 3),
    Goal("start", ("vllm",), 2),
)
_HEAD = "| case | ours | against | theirs | ratio | goal | reached |\n|---|---|---|---|---|---|---|"


def main() -> None:
    """Print the table."""
    print(table(RESULTS))


def table(results: Path) -> str:
    """One line a goal."""
    return "\n".join([_HEAD, *(_row(goal, results) for goal in GOALS)])


def _row(goal: Goal, results: Path) -> str:
    files = [results / peer / f"{goal.case}.json" for peer in goal.peers]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    missing = [KINDS[file.parent.name].title for file in files if not file.exists()]
    if not found:
        return f"| {goal.case} | | {', '.join(missing)} | | | {goal.text} | not measured |"
    hardest = min(found, key=lambda result: result["ratio"])
    cells = [
        goal.case,
        f"{shown(hardest['ours'])} {hardest['unit']} ({hardest['settings']['dtype']})",
        hardest["peer_name"],
        f"{shown(hardest['peer'])} {hardest['unit']}",
        f"{shown(hardest['ratio'])}x",
        goal.text,
        _verdict(goal, hardest, missing),
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(goal: Goal, result: dict[str, Any], missing: Sequence[str]) -> str:
    doubts = [f"{result['cpu_share']:.0%} of the CPU taken by others"] if result["cpu_share"] > NOISY else []
    doubts += [f"{', '.join(missing)} not measured"] if missing else []
    return ("yes" if goal.met(result) else "no") + (f" ({'; '.join(doubts)})" if doubts else "")


if __name__ == "__main__":
    main()
