"""`make bench-masks`: what answers of a form cost a step, by kind of form, for a batch of greedy rows.

Owns the forms and the clock around the three parts: the masks, the draw with and without them, and taking
the drawn tokens in. Logits are random: nothing of a mask's cost depends on where they come from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from transformers import AutoConfig

from benchmarks.measuring import machine
from compute_worker.contract import Drawn, Sampling, StepRow
from compute_worker.engine.sampler import draw
from compute_worker.engine.tokenizer import HfTokenizer
from compute_worker.wording import Constraint, Form, Guide
from demo.model import ensure_model

T = TypeVar("T")

RESULT = Path(__file__).resolve().parent / "results" / "masks.json"
BATCH, STEPS = 32, 60
_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "bee", "sea"]}, "maxItems": 5},
        "email": {"type": "string", "pattern": "^[a-z]+@[a-z]+\\.com$"},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMS = {
    "json_schema": Constraint(Form.JSON_SCHEMA, json.dumps(_SCHEMA)),
    "regex": Constraint(Form.REGEX, r"[A-Z][a-z]{2,20}( [a-z]{1,12}){3,30}\."),
    "grammar": Constraint(Form.GRAMMAR, 'start: sum\nsum: N | sum "+" N | "(" sum ")"\nN: /[0-9]{1,3}/'),
}


def timed(work: Callable[[], T], into: list[float]) -> T:
    """The work's result; its milliseconds are noted."""
    since = time.perf_counter()
    result = work()
    into.append((time.perf_counter() - since) * 1000)
    return result


def rows(masks: list[bytes] | None, step: int) -> list[StepRow]:
    """A batch of greedy rows that draw."""
    allowed: Sequence[bytes | None] = masks or [None] * BATCH
    return [StepRow([0], 0, [0], (), Sampling(), [0], step, allowed=mask) for mask in allowed]


def measured(tokenizer: HfTokenizer, form: Constraint) -> dict[str, float]:
    """Milliseconds: once for the form, then medians and the worst of a step of the batch."""
    spent: dict[str, list[float]] = {name: [] for name in ("compile", "masks", "bound draw", "free draw", "take")}
    guides = [timed(lambda: tokenizer.guide(form), spent["compile"]) for _ in range(BATCH)]
    for step in range(STEPS):
        logits = torch.randn(BATCH, tokenizer.vocab_size)
        guides = [tokenizer.guide(form) if guide.ended else guide for guide in guides]
        masks = timed(lambda: [guide.allowed() for guide in guides], spent["masks"])  # noqa: B023 - called at once
        drawn = timed(lambda: draw(logits, rows(masks, step)), spent["bound draw"])  # noqa: B023 - likewise
        timed(lambda: draw(logits, rows(None, step)), spent["free draw"])  # noqa: B023 - likewise
        pairs = list(zip(guides, drawn, strict=True))
        timed(lambda: _take(pairs), spent["take"])  # noqa: B023 - likewise
    steps = {name: median(values) for name, values in spent.items() if name != "compile"}
    return {"compile": spent["compile"][0], **steps, "worst masks": max(spent["masks"])}


def _take(pairs: Sequence[tuple[Guide, Drawn]]) -> None:
    for guide, one in pairs:
        guide.take(one.token)


def main() -> None:
    """Measure, print, and keep the result."""
    path = str(ensure_model())
    tokenizer = HfTokenizer.load(path, AutoConfig.from_pretrained(path))
    prepare: list[float] = []
    timed(lambda: tokenizer.guide(Constraint(Form.REGEX, "a")), prepare)
    found = {name: measured(tokenizer, form) for name, form in FORMS.items()}
    print(f"tokens prepared, once for a model: {prepare[0]:.0f} ms; a step of {BATCH} rows, ms:")
    for name, values in found.items():
        print(f"{name:12}", ", ".join(f"{part} {value:.2f}" for part, value in values.items()))
    document = {"batch": BATCH, "vocabulary": tokenizer.vocab_size, "prepared_ms": prepare[0], "forms": found}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**document, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
