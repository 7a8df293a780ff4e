"""LORRY_WORKER_DTYPE: what weights, adapters, keys and values are stored in, whatever their files hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compute_worker.engine.build import EngineSettings, build_engine
from compute_worker.engine.engine import TransformersEngine
from tests.support.peft_adapters import facts_of, weights_of
from tests.support.worker import save_model, tiny_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32, with numbers that bfloat16 does not hold."""
    return tiny_adapter(tmp_path_factory.mktemp("adapter"), seed=3, alpha=5)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TransformersEngine]:
    model = str(save_model(tmp_path_factory.mktemp("model")))
    made = {}
    for dtype in ("float32", "bfloat16"):
        engine, _ = build_engine(EngineSettings(model, dtype=dtype, pool_bytes=1 << 20, kv_bytes=1 << 20))
        assert isinstance(engine, TransformersEngine)
        made[dtype] = engine
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_in_float32_is_scaled_and_rounded_to_the_setting_once(
    engines: dict[str, TransformersEngine], adapter: Path, dtype: str
) -> None:
    facts, kind = facts_of(adapter), getattr(torch, dtype)
    read = engines[dtype].read(weights_of(adapter), facts)
    file = load_file(weights_of(adapter))

    for module in facts.modules:
        a, b = (file[f"base_model.model.{module.name}.lora_{side}.weight"] for side in "AB")
        assert read.modules[module.name].a.equal(a.to(kind))
        assert read.modules[module.name].b.equal((b.T * module.scaling).to(kind))
    assert engines[dtype].dtype == dtype


def test_bfloat16_halves_what_adapters_rows_and_blocks_take(
    engines: dict[str, TransformersEngine], adapter: Path
) -> None:
    wide, narrow = engines["float32"], engines["bfloat16"]
    wide_read, narrow_read = (engine.read(weights_of(adapter), facts_of(adapter)) for engine in (wide, narrow))

    assert wide_read.nbytes == 2 * narrow_read.nbytes
    assert wide.limits.row_bytes == 2 * narrow.limits.row_bytes
    assert narrow.limits.kv_blocks == 2 * wide.limits.kv_blocks
