"""`make bench-plots`: docs/plots/*.svg out of the results' JSON.

Owns the drawings: a bar a case and peer, lines for sweeps. Measures nothing; a result that is not
there is left out, and a plot without any is not written. Needs the extra `bench` (matplotlib).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peer import KINDS, ROOT
from benchmarks.report import NOISY, shown
from benchmarks.serving import RESULTS

INTO = ROOT / "docs" / "plots"
_RATES = ("A", "B", "C", "D", "E", "F")
_COLOURS = ("#2b6cb0", "#dd8452", "#55a868", "#937860", "#8172b3")
# Equal results give equal files: no date, no random names, text as text.
_STABLE: dict[Any, Any] = {"svg.hashsalt": "lorry", "svg.fonttype": "none", "font.size": 9}


def main() -> None:
    """Draw what there is."""
    INTO.mkdir(parents=True, exist_ok=True)
    results = {name: _read(RESULTS / name) for name in KINDS}
    with mpl.rc_context(_STABLE):
        _save("rates.svg", rates(results))
        _save("ratios.svg", ratios(results))
        for sweep in _read(RESULTS / "sweeps"):
            _save(f"sweep-{sweep['sweep']}.svg", lines(sweep))


def rates(results: dict[str, list[dict[str, Any]]]) -> Figure | None:
    """New tokens a second, cases A to F: ours beside every peer that was measured in them."""
    found = {(case["case"], name): case for name, cases in results.items() for case in cases if case["case"] in _RATES}
    if not found:
        return None
    figure, axes = _figure("new tokens a second")
    shown_cases = [case for case in _RATES if any(case == one for one, _ in found)]
    groups = [_bars_of(case, found) for case in shown_cases]
    place = 0.0
    ticks = []
    for bars in groups:
        ticks.append(place + (len(bars) - 1) / 2)
        for label, value, colour in bars:
            axes.bar(place, value, 0.9, color=colour, label=label)
            axes.text(place, value, shown(value), ha="center", va="bottom", fontsize=7)
            place += 1
        place += 1
    axes.set_xticks(ticks, shown_cases)
    _legend(axes)
    return figure


def _bars_of(case: str, found: dict[tuple[str, str], dict[str, Any]]) -> list[tuple[str, float, str]]:
    """Label, value and colour: ours as in the run beside the first peer, then the peers."""
    runs = [(name, found[case, name]) for name in KINDS if (case, name) in found]
    peers = [(KINDS[name].title, one["peer"], _COLOURS[1 + list(KINDS).index(name)]) for name, one in runs]
    return [("Lorry", runs[0][1]["ours"], _COLOURS[0]), *peers]


def ratios(results: dict[str, list[dict[str, Any]]]) -> Figure | None:
    """How many times better than each peer we are, every case, on a logarithmic axis."""
    bars = [
        (f"{case['case']} / {KINDS[name].title}", case["ratio"], case["cpu_share"])
        for name, cases in results.items()
        for case in sorted(cases, key=lambda case: case["case"])
    ]
    if not bars:
        return None
    figure, axes = _figure("times better than the peer (pale: noisy)", height=0.24 * len(bars))
    for place, (_, ratio, share) in enumerate(reversed(bars)):
        axes.barh(place, ratio, color=_COLOURS[0], alpha=0.4 if share > NOISY else 1)
        axes.text(ratio, place, f" {shown(ratio)}x", va="center", fontsize=7)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in reversed(bars)])
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.12)
    return figure


def lines(sweep: dict[str, Any]) -> Figure:
    """The rate at each point of a sweep, a line a series; a series of one point is a dot."""
    figure, axes = _figure(f"{sweep['unit']}, 32 requests in flight")
    series: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for point in sweep["points"]:
        series[point["series"]].append((point["at"], point["rate"]))
    for (label, points), colour in zip(series.items(), _COLOURS, strict=False):
        axes.plot([at for at, _ in points], [rate for _, rate in points], marker="o", label=label, color=colour)
    axes.set_ylim(bottom=0)
    axes.set_xlabel({"adapters": "different adapters", "ranks": "rank of 4 adapters"}.get(sweep["sweep"], ""))
    if len(series) > 1:
        _legend(axes)
    return figure


def _figure(title: str, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, max(2.0, height)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), frameon=False)


def _read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def _save(name: str, figure: Figure | None) -> None:
    if figure is not None:
        figure.savefig(INTO / name, metadata={"Date": None})
        print(INTO / name)


if __name__ == "__main__":
    main()
