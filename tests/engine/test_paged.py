"""Attention over paged KV as flash attention is called: its tables, what it serves, and what is done where it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from compute_worker.contract import StepRow
from compute_worker.engine import engine as engine_module
from compute_worker.engine.admission import GENERAL
from compute_worker.engine.attention import GATHERED, Attention, Rule
from compute_worker.engine.cuda.tables import tables_of
from compute_worker.engine.cuda.varlen import VARLEN, Places, check, window_of
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.kv import LayerShape
from compute_worker.engine.layout import lay_out
from lorry.errors import UnsupportedModel
from tests.support.models import tiny_model
from tests.support.paged import paged, twin
from tests.support.steps import Request, engine_of, prompt, run, run_all

Take = Callable[..., None]


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Take:
    """Have engines try these attentions first, and keep to the general executor."""

    def take(*attentions: Attention) -> None:
        monkeypatch.setattr(engine_module, "attentions", lambda *_: (*attentions, GATHERED))
        monkeypatch.setattr(engine_module, "admitted", lambda _, general: general)

    return take


def row(count: int, position: int, blocks: Sequence[int]) -> StepRow:
    return StepRow([0] * count, position, blocks, (), None, (), 0)


def test_tables_tell_each_row_its_tokens_its_keys_and_the_blocks_that_hold_them() -> None:
    rows = [row(5, 2, (7, 3, 9)), row(1, 8, (4, 1, 6, 2)), row(1, 3, (5, 8))]

    tables = tables_of(lay_out(rows, 4), 4)

    assert tables.begins == [0, 1, 2, 7]
    assert tables.seen == [9, 4, 7]
    assert tables.blocks == [[4, 1, 6], [5, 0, 0], [7, 3, 0]]
    assert tables.queries == 5


@pytest.mark.parametrize(
    ("window", "queries", "expected"),
    [(None, 3, (-1, 0)), (None, 1, (-1, -1)), (6, 3, (5, 0)), (6, 1, (5, 0)), (1, 1, (0, 0))],
)
def test_a_window_counts_the_querys_own_place(window: int | None, queries: int, expected: tuple[int, int]) -> None:
    assert window_of(Rule(1.0, window), queries) == expected


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        (LayerShape(2, 64, 64), Rule(1.0, softcap=5.0)),
        (LayerShape(2, 64, 64), Rule(1.0, sinks=torch.zeros(4))),
        (LayerShape(2, 64, 32), Rule(1.0)),
        (LayerShape(2, 12, 12), Rule(1.0)),
        (LayerShape(2, 264, 264), Rule(1.0)),
    ],
    ids=["softcap", "sinks", "other-values", "odd-heads", "large-heads"],
)
def test_layers_that_the_kernels_do_not_serve_are_refused(shape: LayerShape, rule: Rule) -> None:
    check({0: LayerShape(2, 64, 64)}, {0: Rule(1.0, 6)})

    with pytest.raises(UnsupportedModel, match="layer 3"):
        check({3: shape}, {3: rule})


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2", "opt"])
def test_a_step_computes_what_gathered_blocks_give(family: str, take: Take) -> None:
    take(paged())
    logits = []
    for executor in ("auto", GENERAL):
        engine = engine_of(tiny_model(family), executor=executor)
        requests = [Request(prompt(length, length), seat) for seat, length in enumerate((40, 3, 33, 17))]
        steps = [[(0, 0, 21), (1, 0, 2), (3, 0, 16)], [(0, 21, 22), (1, 2, 3), (2, 0, 33), (3, 16, 17)], [(0, 22, 40)]]
        logits.append([run(engine, [requests[seat].row(begin, end) for seat, begin, end in step]) for step in steps])

    for got, expected in zip(*logits, strict=True):
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_which_attention_serves_is_told(take: Take) -> None:
    take(paged())

    assert engine_of(tiny_model("llama")).executor == "transformers-paged"


def wrong(query: Tensor, keys: Tensor, values: Tensor, places: Places, rule: Rule) -> Tensor:
    """What happens where rows see each other's blocks."""
    return twin(query, keys.roll(1, 0), values, places, rule)


def failing(*_: object) -> Tensor:
    raise RuntimeError("CUDA error: no kernel image is available")


@pytest.mark.parametrize(
    ("attention", "family", "reason"),
    [
        (paged(wrong), "llama", "its logits in a mixed batch are off"),
        (paged(failing), "llama", "no kernel image is available"),
        (paged(), "gemma2", "expected neither a softcap nor sinks"),
        (paged(block_tokens=1024), "llama", "expected a KV cache of at least 5 blocks"),
    ],
    ids=["wrong", "failing", "unable", "large"],
)
def test_one_that_does_not_do_is_left_and_the_log_says_why(
    attention: Attention, family: str, reason: str, take: Take, caplog: pytest.LogCaptureFixture
) -> None:
    take(attention)

    engine = engine_of(tiny_model(family))

    assert engine.executor == GENERAL
    assert engine.limits.block_tokens == GATHERED.block_tokens
    assert reason in caplog.text
    run_all(engine, [Request(prompt(20), 0)])


def test_a_block_is_kept_from_requests_for_the_attention_itself(take: Take) -> None:
    take(paged())
    budgets = Budgets(1 << 20, 1 << 20)

    limits = TransformersEngine(tiny_model("llama"), budgets).limits

    assert limits.kv_blocks == budgets.kv_bytes // limits.block_bytes - 1


def test_the_kernels_pages_are_as_long_as_they_take_them() -> None:
    """FlashAttention-2 in torch 2.13: a multiple of 256, no other."""
    assert VARLEN.block_tokens % 256 == 0


def test_on_a_cpu_nothing_else_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        engine_of(tiny_model("llama"))

    assert "attention" not in caplog.text
