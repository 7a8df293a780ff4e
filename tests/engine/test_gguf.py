"""A GGUF file as a base: unpacked, then like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from compute_worker.engine.build import EngineSettings, build_engine
from compute_worker.engine.loading import load_base
from compute_worker.engine.tokenizer import HfTokenizer
from lorry import sync
from lorry.errors import InvalidInput
from lorry.fingerprint import base_facts
from tests.support.quantised import gguf_llama, saved_gguf
from tests.support.worker import worker_process

# Nobody listens there: a base needs no registry.
NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf")


def test_it_is_the_base_that_a_folder_made_of_it_is(file: Path, tmp_path: Path) -> None:
    loaded = load_base(str(file), "cpu", "float32")
    loaded.save_pretrained(tmp_path)

    facts = base_facts(load_base(str(tmp_path), "cpu", "float32"))

    assert base_facts(loaded) == facts
    assert facts.quantization == "none"  # its values are plain numbers from then on
    assert facts.base_id != base_facts(gguf_llama()).base_id


def test_its_weights_are_those_that_were_quantised(file: Path) -> None:
    loaded = load_base(str(file), "cpu", "float32")

    # 8 bits of the largest of each 32.
    for name, parameter in gguf_llama().named_parameters():
        assert torch.allclose(loaded.get_parameter(name), parameter, atol=float(parameter.abs().max()) / 127)


def test_it_is_served_with_its_own_tokenizer(file: Path) -> None:
    engine, tokenizer = build_engine(EngineSettings(str(file), pool_bytes=1 << 20, kv_bytes=1 << 20, dtype="float32"))

    assert engine.base == base_facts(load_base(str(file), "cpu", "float32"))
    assert tokenizer.decode(tokenizer.encode("that")) == "that"
    assert len(tokenizer.encode("that")) == 3


def test_what_lies_beside_it_does_not_end_its_texts(file: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copy(file, tmp_path))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')

    tokenizer = HfTokenizer.load(str(copied), load_base(str(copied), "cpu", "float32").config)

    assert tokenizer.eos_ids == {257}


def test_a_broken_file_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUL" * 16)

    with pytest.raises(InvalidInput, match=r"broken\.gguf"):
        load_base(str(tmp_path / "broken.gguf"), "cpu", "float32")


def test_a_missing_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"missing\.gguf"):
        load_base(str(tmp_path / "missing.gguf"), "cpu", "float32")


def test_a_worker_process_serves_it(file: Path, tmp_path: Path) -> None:
    with worker_process(tmp_path, file, NOWHERE) as running, sync.WorkerClient(running.target) as client:
        answer = client.generate("that", max_new_tokens=3, ignore_eos=True)

        assert sum(len(message.delta.token_ids) for message in answer) == 3
