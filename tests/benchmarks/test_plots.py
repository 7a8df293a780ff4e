"""The plots: what is drawn of which results. Skipped where the extra `bench` is not installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")

from benchmarks import plots


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the plots; results lie beside it."""
    monkeypatch.setattr(plots, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(plots, "INTO", tmp_path / "plots")
    return tmp_path / "plots"


def write(folder: Path, peer: str, **results: float) -> None:
    (folder / peer).mkdir(parents=True)
    for case, ratio in results.items():
        measured = {"case": case, "ours": 10 * ratio, "peer": 10.0, "ratio": ratio, "cpu_share": 0.0}
        (folder / peer / f"{case}.json").write_text(json.dumps(measured))


def test_a_bar_is_drawn_for_every_case_and_peer_that_was_measured(drawn: Path, tmp_path: Path) -> None:
    write(tmp_path / "results", "peft", A=2.0, B=3.0, switch=400.0)
    write(tmp_path / "results", "llama", A=1.5)
    plots.main()
    rates, ratios = ((drawn / name).read_text() for name in ("rates.svg", "ratios.svg"))
    assert {name: name in rates for name in ("Lorry", "PEFT", "llama-server", "vLLM")} == {
        "Lorry": True,
        "PEFT": True,
        "llama-server": True,
        "vLLM": False,
    }
    assert "switch / PEFT" in ratios
    assert "400x" in ratios


def test_equal_results_give_equal_files(drawn: Path, tmp_path: Path) -> None:
    write(tmp_path / "results", "peft", A=2.0)
    plots.main()
    first = (drawn / "rates.svg").read_bytes()
    plots.main()
    assert (drawn / "rates.svg").read_bytes() == first


def test_a_sweep_is_a_line_a_series(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "sweeps"
    folder.mkdir(parents=True)
    points = [{"series": series, "at": at, "rate": 50.0} for series in ("uniform", "zipf") for at in ("1", "256")]
    (folder / "adapters.json").write_text(json.dumps({"sweep": "adapters", "unit": "tok/s", "points": points}))
    plots.main()
    text = (drawn / "sweep-adapters.svg").read_text()
    assert all(word in text for word in ("uniform", "zipf", "256", "different adapters"))
    assert not (drawn / "rates.svg").exists()
