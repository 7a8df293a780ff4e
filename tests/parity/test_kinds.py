"""Every kind of adapter that PEFT has, alone and in one batch with all others, against PEFT in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compute_worker.contract import ActiveAdapter
from compute_worker.engine.admission import AUTO, GENERAL
from tests.support.kinds import KINDS
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run, run_all

pytestmark = QUIET
TOLERANCE = 1e-4
LENGTH = 18
# Ids with trained rows among them.
TOKENS = [57, 4, 130, *prompt(LENGTH - 5), 9, 7]
# Those that the fast executor takes are also run by the general one.
CASES = [*((family, AUTO) for family in KINDS), *((family, GENERAL) for family in ("llama", "qwen3"))]


class Case:
    """An engine of a family with an adapter of every kind, and what PEFT says to a prompt under each."""

    def __init__(self, family: str, executor: str, root: Path) -> None:
        model = tiny_model(family)
        self.engine = engine_of(tiny_model(family), pool_bytes=8 << 20, kv_bytes=4 << 20, executor=executor)
        self.active: dict[str, tuple[ActiveAdapter, ...]] = {"base": ()}
        self.expected: dict[str, Tensor] = {"base": peft_logits(model, [], TOKENS)}
        start = 1
        for seed, (kind, config) in enumerate(KINDS[family].items()):
            folder = save_adapter(model, root / kind, seed=seed, **config)
            adapter = install(self.engine, folder, start)
            start += adapter.rank + 1
            self.active[kind] = (adapter,)
            self.expected[kind] = peft_logits(model, [folder], TOKENS)

    def requests(self) -> dict[str, Request]:
        """The prompt under each kind."""
        return {kind: Request(TOKENS, seat, active) for seat, (kind, active) in enumerate(self.active.items())}

    def worst(self, kind: str, got: Tensor, end: int = LENGTH) -> float:
        """How far logits behind token `end` are from PEFT's."""
        return float((got - self.expected[kind][end - 1]).abs().max())


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(*request.param, tmp_path_factory.mktemp(request.param[0]))


def test_each_kind_alone_is_pefts_and_shows(case: Case) -> None:
    for kind, request in case.requests().items():
        (got,) = run_all(case.engine, [request])
        assert case.worst(kind, got) < TOLERANCE, kind
        assert kind == "base" or (got - case.expected["base"][-1]).abs().max() > 0.05, kind


def test_all_kinds_and_the_base_in_one_step_are_pefts(case: Case) -> None:
    requests = case.requests()
    got = run_all(case.engine, list(requests.values()))

    worst = {kind: case.worst(kind, logits) for kind, logits in zip(requests, got, strict=True)}
    assert max(worst.values()) < TOLERANCE, worst


def test_chunks_and_decode_rows_of_all_kinds_in_one_step_are_pefts(case: Case) -> None:
    requests = case.requests()
    cuts = {kind: LENGTH - 1 if seat % 2 else 7 for seat, kind in enumerate(requests)}
    run(case.engine, [request.row(0, cuts[kind]) for kind, request in requests.items()])

    got = run(case.engine, [request.row(cuts[kind], LENGTH) for kind, request in requests.items()])

    worst = {kind: case.worst(kind, logits) for kind, logits in zip(requests, got, strict=True)}
    assert max(worst.values()) < TOLERANCE, worst


@settings(max_examples=5, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(1, LENGTH - 1), st.integers(1, LENGTH)), min_size=1, max_size=8)
)
def test_any_batch_gives_each_row_what_pefts_gives_it_alone(case: Case, drawn: list[tuple[int, int, int]]) -> None:
    """Any kinds, again and again, in any order; each prompt cut in two anywhere."""
    kinds = [sorted(case.active)[place % len(case.active)] for place, _, _ in drawn]
    requests = [Request(TOKENS, seat, case.active[kind]) for seat, kind in enumerate(kinds)]
    spans = [(cut, min(LENGTH, cut + more)) for _, cut, more in drawn]
    for turn in (lambda span: (0, span[0]), lambda span: span):
        got = run(case.engine, [request.row(*turn(span)) for request, span in zip(requests, spans, strict=True)])
        for kind, logits, span in zip(kinds, got, spans, strict=True):
            assert case.worst(kind, logits, turn(span)[1]) < TOLERANCE, kind


def test_the_base_alone_is_the_bases_again_behind_every_kind(case: Case) -> None:
    (before,) = run_all(case.engine, [Request(TOKENS, 0)])
    run_all(case.engine, list(case.requests().values()))

    assert torch.equal(run_all(case.engine, [Request(TOKENS, 0)])[0], before)
