"""The table of goals: what counts as reached, and what is not known."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.goals import GOALS, table
from benchmarks.peer import KINDS


def write(results: Path, peer: str, case: str, ours: float, ratio: float, cpu_share: float = 0.0) -> None:
    (results / peer).mkdir(exist_ok=True)
    measured = {"ours": ours, "peer": ours / ratio, "ratio": ratio, "unit": "tok/s", "cpu_share": cpu_share}
    measured |= {"peer_name": f"{KINDS[peer].title}, float32", "settings": {"dtype": "float32"}}
    (results / peer / f"{case}.json").write_text(json.dumps(measured))


def lines(results: Path, case: str) -> list[str]:
    return [line for line in table(results).splitlines() if line.startswith(f"| {case} |")]


def test_a_goal_is_against_the_best_of_its_peers(tmp_path: Path) -> None:
    write(tmp_path, "peft", "B", 40, ratio=4)
    write(tmp_path, "vllm", "B", 40, ratio=5)
    write(tmp_path, "llama", "B", 40, ratio=2)
    assert lines(tmp_path, "B") == ["| B | 40 tok/s (float32) | llama-server, float32 | 20 tok/s | 2x | >= 2.2x | no |"]


def test_peers_that_were_not_measured_and_noise_are_said(tmp_path: Path) -> None:
    write(tmp_path, "llama", "A", 40, ratio=2, cpu_share=0.3)
    (line,) = lines(tmp_path, "A")
    assert line.endswith("| yes (30% of the CPU taken by others; vLLM without LoRA not measured) |")
    assert lines(tmp_path, "J") == ["| J | | vLLM | | | >= 10x | not measured |"]


def test_a_goal_for_our_own_value_does_not_ask_for_a_ratio(tmp_path: Path) -> None:
    write(tmp_path, "peft", "load", 1.05, ratio=0.9)
    assert lines(tmp_path, "load")[0].endswith("| ours <= 1.1 | yes |")


def test_every_goal_is_about_a_case_that_its_peers_take_part_in() -> None:
    taking_part = [not KINDS[peer].cases or goal.case in KINDS[peer].cases for goal in GOALS for peer in goal.peers]
    assert all(taking_part)
