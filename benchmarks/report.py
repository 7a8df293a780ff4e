"""Results as people read them and as programs do: a plain table, and one JSON file a case.

Owns both forms. Does not know how anything was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.measuring import Result

# Above this share of others' CPU time a ratio is not to be believed.
NOISY = 0.10
_HEADINGS = ("case", "", "ours", "peer", "ratio", "repeats", "others' CPU")


def table(results: Sequence[Result]) -> str:
    """One line a result; columns as wide as they must be, numbers to the right."""
    rows = [_HEADINGS, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    texts = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(texts + numbers).rstrip()


def _row(result: Result) -> tuple[str, ...]:
    claim = result.claim
    return (
        claim.name,
        claim.title,
        f"{shown(median(result.ours))} {claim.unit}" + (f" ({claim.ours})" if claim.ours else ""),
        f"{shown(median(result.peer))} {claim.unit} ({claim.peer})",
        f"{shown(result.ratio)}x",
        str(len(result.ours)),
        f"{result.cpu_share:.0%}" + (" noisy" if result.cpu_share > NOISY else ""),
    )


def shown(value: float) -> str:
    """Three digits, whatever the size."""
    if value >= 100:  # noqa: PLR2004 - from here on, three digits need no decimals
        return f"{value:,.0f}"
    return f"{value:.3g}"


def document(result: Result, settings: Mapping[str, int | str], machine: Mapping[str, str | int]) -> dict[str, object]:
    """The JSON object of a case; `ours` and `peer` are medians, `runs` all values in order."""
    return {
        "case": result.claim.name,
        "title": result.claim.title,
        "unit": result.claim.unit,
        "higher_is_better": result.claim.higher,
        "ours": median(result.ours),
        "peer": median(result.peer),
        "ours_name": result.claim.ours,
        "peer_name": result.claim.peer,
        "ratio": result.ratio,
        "repeats": len(result.ours),
        "runs": {"ours": list(result.ours), "peer": list(result.peer)},
        "cpu_share": result.cpu_share,
        "settings": dict(settings),
        "machine": dict(machine),
    }


def write(folder: Path, written: Mapping[str, object]) -> Path:
    """Put a document into `folder` under the name of its case."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{written['case']}.json"
    file.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return file
