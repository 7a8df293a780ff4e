"""Decode steps over memory that a recording reads: filled up, gathered, and the same as the general executor's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compute_worker.contract import ActiveAdapter, Sampling, StepRow
from compute_worker.engine import admission
from compute_worker.engine import engine as engine_module
from compute_worker.engine.admission import GENERAL
from compute_worker.engine.attention import GATHERED
from compute_worker.engine.cuda.decode import BATCHES, RecordedExecutor
from compute_worker.engine.cuda.mixing import mix_of
from compute_worker.engine.cuda.recording import Recorder, Work
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.layout import Run
from compute_worker.engine.pool import Resident
from lorry.errors import Internal
from tests.support.models import TARGETS, tiny_model
from tests.support.paged import Again, paged, twin
from tests.support.peft_adapters import QUIET, save_adapter, weights_of
from tests.support.steps import Request, engine_of, generate, install, prompt, run, run_all

pytestmark = QUIET
CLOSE = {"rtol": 0, "atol": 1e-5}
# Four blocks for each of 65 requests.
KV_BYTES = 4 << 20
# 55 rows of the widest of the families.
POOL_BYTES = 1 << 18
families = pytest.mark.parametrize("pair", ["llama", "mistral", "gpt2"], indirect=True)
Adapted = Callable[..., Path]


@dataclass(frozen=True)
class Pair:
    """Two engines of one model: one whose decode steps are recorded, one that knows nothing of it."""

    recorded: TransformersEngine
    plain: TransformersEngine
    replays: Again

    def install(self, folder: Path, start: int, weight: float = 1.0) -> ActiveAdapter:
        """In both."""
        install(self.plain, folder, start)
        return install(self.recorded, folder, start, weight)

    def decode(self, requests: Sequence[Request], steps: int = 3) -> int:
        """Prompts, then one token a step of each; compares. Gives how many steps were replayed."""
        before = self.replays.replays
        for end in range(-steps, 1):
            rows = [
                request.row(0 if end == -steps else len(request.tokens) + end - 1, len(request.tokens) + end)
                for request in requests
            ]
            for got, expected in zip(run(self.recorded, rows), run(self.plain, rows), strict=True):
                torch.testing.assert_close(got, expected, **CLOSE)
        return self.replays.replays - before


def recorded(family: str, monkeypatch: pytest.MonkeyPatch, replays: Again) -> TransformersEngine:
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "attentions", lambda *_: (paged(), GATHERED))
        patch.setattr(
            engine_module,
            "admitted",
            lambda served, general: RecordedExecutor(
                served.model, served.kv, served.pool, served.limits, general, replays, kernel=twin
            ),
        )
        return engine_of(tiny_model(family), POOL_BYTES, KV_BYTES)


@pytest.fixture
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pair:
    family, replays = getattr(request, "param", "llama"), Again()
    engine = recorded(family, monkeypatch, replays)
    return Pair(engine, engine_of(tiny_model(family), POOL_BYTES, KV_BYTES, GENERAL), replays)


@pytest.fixture
def adapted(pair: Pair, tmp_path: Path) -> Adapted:
    """Makes an adapter of the pair's model."""

    def adapted(name: str, **more: object) -> Path:
        model = tiny_model(pair.plain.base.model_type)
        return save_adapter(model, tmp_path / name, seed=len(name), **{"target_modules": "all-linear"} | more)

    return adapted


def requests_of(*uses: Sequence[ActiveAdapter]) -> list[Request]:
    return [Request(prompt(5 + 9 * seat % 40, seat), seat, tuple(adapters)) for seat, adapters in enumerate(uses)]


@families
@pytest.mark.parametrize("count", [1, 5])
def test_decode_steps_of_the_base_are_replayed(pair: Pair, count: int) -> None:
    assert pair.decode(requests_of(*[()] * count)) == 3


@families
def test_any_mix_of_loras_is_replayed(pair: Pair, adapted: Adapted) -> None:
    """Mixed ranks, weights and pairs; one reaches some modules alone, with a rank of its own in one of them."""
    targets = TARGETS[pair.plain.base.model_type]
    some = adapted("some", r=3, target_modules=list(targets), rank_pattern={targets[0]: 1})
    one, two = pair.install(adapted("wide", r=5), 2), pair.install(some, 40)

    uses = ((one,), (), (replace(one, weight=-0.5), replace(two, weight=2.0)), (two,), (replace(two, weight=0.0),))
    assert pair.decode(requests_of(*uses)) == 3


@families
def test_what_another_adapter_left_in_the_rows_is_not_seen(pair: Pair, adapted: Adapted) -> None:
    pair.install(adapted("wide", r=8), 4)
    few = adapted("few", r=3, target_modules=list(TARGETS[pair.plain.base.model_type][:1]))

    assert pair.decode(requests_of((pair.install(few, 4),), ())) == 3


def test_rows_that_are_installed_between_steps_are_seen_by_the_next(pair: Pair, adapted: Adapted) -> None:
    for name in ("first", "another"):
        pair.decode(requests_of((pair.install(adapted(name, r=4), 4),)))


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed but the targeted layer")
@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_bias": True}], ids=["dora", "lora-bias"])
def test_what_is_more_than_products_runs_unrecorded(pair: Pair, adapted: Adapted, more: dict[str, object]) -> None:
    targets = list(TARGETS[pair.plain.base.model_type])
    active = pair.install(adapted("more", r=2, target_modules=targets, **more), 4)

    assert pair.decode(requests_of((active,), ())) == 0
    assert pair.decode(requests_of((), ())) == 3


def test_a_batch_beyond_the_largest_recording_runs_unrecorded(pair: Pair) -> None:
    assert pair.decode(requests_of(*[()] * (BATCHES[-1] + 1))) == 0


def test_a_step_with_a_row_that_draws_nothing_runs_unrecorded(pair: Pair) -> None:
    rows = [request.row(0, 5) for request in requests_of((), ())]
    run(pair.recorded, rows)

    idle = replace(Request(rows[1].context, 1).row(4, 5), sample=None)
    assert pair.recorded.step([Request(rows[0].context, 0).row(4, 5), idle])[1] is None
    assert pair.replays.replays == 0


def test_greedy_and_drawn_tokens_are_the_same(pair: Pair, adapted: Adapted) -> None:
    folder, samplings = adapted("one", r=4), (Sampling(), Sampling(temperature=0.8, top_k=20, seed=3))
    active = pair.install(folder, 3)
    requests = [
        Request(prompt(4 + seat, seat), seat, ((active,), ())[seat % 2], samplings[seat // 2]) for seat in range(4)
    ]

    assert generate(pair.recorded, requests, 12) == generate(pair.plain, requests, 12)
    assert pair.replays.replays == 11


def test_an_adapter_that_overflows_breaks_its_own_row_alone(pair: Pair, adapted: Adapted) -> None:
    soft, huge = adapted("soft", r=4), adapted("huge", r=4)
    tensors = {name: torch.full_like(tensor, 3e38) for name, tensor in load_file(weights_of(huge)).items()}
    save_file({name: tensor / (100 if "lora_B" in name else 1) for name, tensor in tensors.items()}, weights_of(huge))
    bad, good = install(pair.recorded, huge, 0), pair.install(soft, 8)
    calm = requests_of((), (good,))
    run_all(pair.recorded, [request_cut(request) for request in calm])
    run_all(pair.plain, [request_cut(request) for request in calm])

    broken, *rest = run(pair.recorded, [last_of(Request(calm[0].tokens, 5, (bad,))), *map(last_of, calm)])

    assert pair.replays.replays == 1
    assert not broken.isfinite().any()
    for got, expected in zip(rest, run(pair.plain, list(map(last_of, calm))), strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


def failing(_: Work) -> Work:
    raise RuntimeError("operation not permitted when stream is capturing")


def forgetful(work: Work) -> Work:
    """Records something that does nothing: what it gives is of another step."""
    work()
    return lambda: None


def recorded_by(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> int:
    """Engines are built as on a CUDA device from now on. Gives the tokens of a block."""
    attention = paged()
    monkeypatch.setattr(engine_module, "attentions", lambda *_: (attention, GATHERED))
    monkeypatch.setattr(engine_module, "admitted", admission.recorded)
    monkeypatch.setattr(admission, "VARLEN", attention)
    monkeypatch.setattr(admission, "Graphs", lambda _: recorder)
    monkeypatch.setattr(admission, "RecordedExecutor", partial(RecordedExecutor, kernel=twin))
    return attention.block_tokens


@pytest.mark.parametrize(
    ("recorder", "expected", "said"),
    [
        (Again(), "transformers-paged-recorded", "executor transformers-paged-recorded"),
        (failing, "transformers-paged", "executor transformers-paged: operation not permitted"),
        (forgetful, "transformers-paged", "executor transformers-paged: llama: its logits in a mixed batch are off"),
    ],
    ids=["good", "failing", "forgetful"],
)
def test_recordings_serve_only_once_they_gave_the_steps_that_were_recorded(
    recorder: Recorder, expected: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorded_by(recorder, monkeypatch)

    with caplog.at_level(logging.INFO):
        engine = engine_of(tiny_model("llama"), POOL_BYTES)

    assert engine.executor == expected
    assert said in caplog.text
    assert run_all(engine, [Request(prompt(20), 0)])[0].isfinite().all()


def test_a_context_within_one_block_is_recorded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    block = recorded_by(Again(), monkeypatch)

    for context in (block, block - 3):
        budgets = Budgets(POOL_BYTES, 1 << 20, context)
        assert TransformersEngine(tiny_model("llama"), budgets).executor == "transformers-paged-recorded"


def test_steps_over_another_attention_are_not_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "admitted", admission.recorded)

    with caplog.at_level(logging.INFO):
        assert engine_of(tiny_model("llama")).executor == GENERAL

    assert "steps are recorded over varlen attention alone" in caplog.text


def request_cut(request: Request) -> Request:
    return replace(request, tokens=request.tokens[:-1])


def last_of(request: Request) -> StepRow:
    return request.row(len(request.tokens) - 1, len(request.tokens))


def resident(start: int, ranks: tuple[int, ...]) -> Resident:
    return Resident(start, start + max(ranks), ranks, {}, {}, None)


def test_adapters_lie_side_by_side_whatever_lies_between_their_rows() -> None:
    residents = {4: resident(4, (2, 1)), 20: resident(20, (0, 3))}
    one, two = ActiveAdapter(4, 2, 1.0), ActiveAdapter(20, 3, -0.5)

    mix = mix_of([Run(0, 1, (two, one)), Run(1, 3, ()), Run(3, 5, (two,))], residents)

    assert mix is not None
    assert mix.rows == (4, 5, 20, 21, 22)
    assert mix.weights(6, 8).tolist() == [
        [1, 1, -0.5, -0.5, -0.5, 0, 0, 0],
        *[[0] * 8] * 2,
        *[[0, 0, -0.5, -0.5, -0.5, 0, 0, 0]] * 2,
        [0] * 8,
    ]
    assert mix.foreign(2, 8).tolist() == [
        [False, False, True, True, True, True, True, True],
        [False, True, False, False, False, True, True, True],
    ]


def test_an_adapter_that_is_not_there_is_a_defect() -> None:
    with pytest.raises(Internal, match="no adapter lies at pool row 7"):
        mix_of([Run(0, 1, (ActiveAdapter(7, 1, 1.0),))], {})
