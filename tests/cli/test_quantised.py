"""A base in int8 from its folder to an answer: registered by the command, judged by its family, served."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compute_worker.engine.loading import load_base
from lorry import WorkerClient, sync
from lorry.errors import IncompatibleAdapter
from tests.cli.conftest import Lorry
from tests.support.blocking import blocking
from tests.support.pair import PROMPT, agrees, answer
from tests.support.peft_adapters import QUIET
from tests.support.quantised import needs_torchao, saved_int8
from tests.support.registry import DEADLINE
from tests.support.worker import (
    MODEL_NAME,
    RunningWorker,
    running_worker,
    save_model,
    tiny_adapter,
    tiny_base,
    worker_process,
)

needs_torchao()
pytestmark = QUIET
ADAPTER = "quantised/pirate"


async def _asked(serving: RunningWorker) -> object:
    async with WorkerClient(serving.target, timeout=DEADLINE) as worker:
        return await answer(worker, adapters=ADAPTER)


def test_adapters_of_the_plain_base_are_served_on_it_where_it_says_so(
    lorry: Lorry, address: str, tmp_path: Path
) -> None:
    plain = save_model(tmp_path / "plain")
    int8 = saved_int8(plain, Path(shutil.copytree(plain, tmp_path / "int8")))
    pirate = tiny_adapter(tmp_path / "pirate", seed=5)
    lorry("base", "register", str(plain), "--name", MODEL_NAME)
    registered = lorry(
        "base", "register", str(int8), "--name", "tiny-int8", "--derived-from", MODEL_NAME, "--json"
    ).json
    lorry("push", str(pirate), ADAPTER, "--base", MODEL_NAME)

    assert registered["quantization"] == "int8-per-row"
    assert registered["derived_from"] == tiny_base().base_id
    assert "tiny-int8: not compatible\n  reason QUANTIZATION_MISMATCH: " in lorry("check", ADAPTER).out
    with blocking(running_worker(tmp_path / "worker", int8, address)) as serving:
        with pytest.raises(IncompatibleAdapter, match="QUANTIZATION_MISMATCH: trained on weights quantised as none"):
            sync._wait(_asked(serving))
        lorry("base", "update", "tiny-int8", "--carry-over", "warn")
        given = sync._wait(_asked(serving))
        assert "tiny-int8: compatible\n  warning BASE_VARIANT: " in lorry("check", ADAPTER).out
        quantised = load_base(str(int8), "cpu", "float32")
        assert agrees(given, quantised, [pirate], serving.tokenizer.encode(PROMPT))


def test_a_worker_process_serves_it(address: str, tmp_path: Path) -> None:
    plain = save_model(tmp_path / "plain")
    int8 = saved_int8(plain, Path(shutil.copytree(plain, tmp_path / "int8")))

    with worker_process(tmp_path / "worker", int8, address) as running, sync.WorkerClient(running.target) as client:
        known = client.capabilities()

    assert known.executor == "transformers"
