"""One request, or one adapter, cannot change what another request computes: not by infinities, not by leftovers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compute_worker.contract import ActiveAdapter
from compute_worker.engine.admission import GENERAL
from compute_worker.engine.engine import TransformersEngine
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, save_adapter, weights_of
from tests.support.steps import Request, engine_of, install, prompt, run, run_all

pytestmark = QUIET
TOKENS = prompt(9)
# float32 sums of other shapes may round otherwise in the last bit.
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_model("llama"), tmp_path_factory.mktemp("soft"), r=4, target_modules="all-linear")


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every value finite, every product with a real activation infinite."""
    folder = save_adapter(tiny_model("llama"), tmp_path_factory.mktemp("huge"), r=4, target_modules="all-linear")
    tensors = {name: torch.full_like(tensor, 3e38) for name, tensor in load_file(weights_of(folder)).items()}
    save_file({name: tensor / (100 if "lora_B" in name else 1) for name, tensor in tensors.items()}, weights_of(folder))
    return folder


@pytest.fixture
def engine() -> TransformersEngine:
    return engine_of(tiny_model("llama"))


def alone(adapter: Path | None, tokens: list[int]) -> Tensor:
    fresh = engine_of(tiny_model("llama"))
    return run_all(fresh, [Request(tokens, 0, (install(fresh, adapter, 0),) if adapter else ())])[0]


def test_an_adapter_that_overflows_breaks_its_own_request_alone(
    engine: TransformersEngine, soft: Path, huge: Path
) -> None:
    bad, good = install(engine, huge, 0), install(engine, soft, 4)
    requests = [Request(TOKENS, seat, adapters) for seat, adapters in enumerate([(bad,), (), (good,), (bad,)])]
    for begin, end in ((0, 8), (8, 9)):  # chunks, then decode rows, which share products
        broken, base, lora, _ = run(engine, [request.row(begin, end) for request in requests])

    assert not broken.isfinite().any()
    torch.testing.assert_close(base, alone(None, TOKENS), **CLOSE)
    torch.testing.assert_close(lora, alone(soft, TOKENS), **CLOSE)


def test_kv_blocks_of_a_broken_request_can_be_used_again(engine: TransformersEngine, huge: Path) -> None:
    bad = install(engine, huge, 0)
    run_all(engine, [Request(prompt(60), 0, (bad,))])

    for cut in (1, 5, 8):
        request = Request(TOKENS, 0)
        run(engine, [request.row(0, cut)])
        for position in range(cut, 9):
            (got,) = run(engine, [request.row(position, position + 1)])
        torch.testing.assert_close(got, alone(None, TOKENS), **CLOSE)


def test_pool_rows_of_a_broken_adapter_can_be_used_again(engine: TransformersEngine, soft: Path, huge: Path) -> None:
    bad = install(engine, huge, 0)
    run_all(engine, [Request(TOKENS, 0, (bad,))])

    good = install(engine, soft, 2)

    torch.testing.assert_close(run_all(engine, [Request(TOKENS, 0, (good,))])[0], alone(soft, TOKENS), **CLOSE)


def test_a_request_computes_the_same_beside_anybody(engine: TransformersEngine, soft: Path) -> None:
    good = install(engine, soft, 7)
    expected = alone(soft, TOKENS)
    neighbours: list[list[Request]] = [
        [],
        [Request(prompt(40), 1)],
        [Request(prompt(5, seat), seat, (ActiveAdapter(7, 4, 0.1 * seat),)) for seat in range(1, 12)],
    ]

    for others in neighbours:
        got = run_all(engine, [*others, Request(TOKENS, 0, (good,))])[-1]
        torch.testing.assert_close(got, expected, **CLOSE)


def test_kv_that_one_executor_begins_can_be_read_by_the_other(
    engine: TransformersEngine, huge: Path, tmp_path: Path
) -> None:
    """A step goes to the general executor for a neighbour's sake; its masks hide what must be finite nevertheless."""
    folder = save_adapter(
        tiny_model("llama"), tmp_path, r=2, target_modules=["q_proj"], modules_to_save=["layers.1.mlp"]
    )
    bad, neighbour = install(engine, huge, 0), install(engine, folder, 4)
    run_all(engine, [Request(prompt(60), 0, (bad,))])

    request, other = Request(TOKENS, 0), Request(TOKENS, 1, (neighbour,))
    run(engine, [request.row(0, 5)])
    (got, _) = run(engine, [request.row(5, 9), other.row(0, 9)])

    torch.testing.assert_close(got, alone(None, TOKENS), **CLOSE)


def test_a_step_that_cannot_be_planned_leaves_nothing_of_itself(soft: Path) -> None:
    engine = engine_of(tiny_model("llama"), executor=GENERAL)
    good = install(engine, soft, 4)
    request = Request(TOKENS, 0, (good,))
    expected = run_all(engine, [request])[0]
    too_large = Request(TOKENS, 1, (ActiveAdapter(4, 4, 1e39),))  # of float32, in which weights are laid out

    with pytest.raises(RuntimeError, match="overflow"):
        run(engine, [too_large.row(0, 3), request.row(0, 9)])

    assert torch.equal(run_all(engine, [request])[0], expected)
