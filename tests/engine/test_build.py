from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from compute_worker.contract import Sampling
from compute_worker.engine.build import EngineSettings, build_engine
from compute_worker.engine.engine import TransformersEngine
from lorry.errors import UnsupportedModel
from lorry.fingerprint import base_facts
from tests.support.models import saved_model, tiny_model
from tests.support.peft_adapters import QUIET, save_adapter
from tests.support.steps import Request, engine_of, generate, install, prompt
from tests.support.tokenizers import saved_tokenizer

pytestmark = QUIET
SMALL = EngineSettings(model="", dtype="float32", pool_bytes=1 << 20, kv_bytes=1 << 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved_tokenizer(saved_model("llama", tmp_path))


def test_an_engine_and_its_tokenizer_come_out_of_one_folder(folder: Path) -> None:
    engine, tokenizer = build_engine(replace(SMALL, model=str(folder), threads=torch.get_num_threads()))

    assert engine.base == base_facts(tiny_model("llama"))
    assert (engine.device, engine.dtype) == ("cpu", "float32")
    assert tokenizer.vocab_size == engine.base.vocab_size


def test_a_model_that_is_not_served_is_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "bert"'))

    with pytest.raises(UnsupportedModel, match="bert"):
        build_engine(replace(SMALL, model=str(folder)))


def test_greedy_tokens_are_those_of_generate(folder: Path) -> None:
    engine, _ = build_engine(replace(SMALL, model=str(folder)))
    assert isinstance(engine, TransformersEngine)
    prompts = [prompt(length, length) for length in (3, 17, 30)]
    model = AutoModelForCausalLM.from_pretrained(folder)

    got = generate(engine, [Request(tokens, seat) for seat, tokens in enumerate(prompts)], 20)

    for tokens, mine in zip(prompts, got, strict=True):
        whole = model.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            max_new_tokens=20,
            min_new_tokens=20,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert mine == whole[0, len(tokens) :].tolist()


def test_sampled_tokens_are_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    adapter = save_adapter(tiny_model("llama"), tmp_path, r=4, target_modules=["q_proj", "up_proj"])
    engine = engine_of(tiny_model("llama"))
    active = install(engine, adapter, 3)
    requests = [
        Request(
            prompt(5 + seat, seat),
            seat,
            (replace(active, weight=0.5),) if seat % 2 else (),
            Sampling(temperature=0.5 + seat / 4, top_k=50, top_p=0.95, repetition_penalty=1.1, seed=seat),
        )
        for seat in range(6)
    ]

    together = generate(engine, requests, 15)

    assert [generate(engine, [request], 15)[0] for request in requests] == together
    assert len({tuple(tokens) for tokens in together}) == 6


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, torch sees none")
    adapter = save_adapter(tiny_model("llama"), tmp_path, r=4, target_modules="all-linear", use_dora=True)
    tokens = []
    for device in ("cpu", "cuda"):
        engine = engine_of(tiny_model("llama").to(device))
        active = install(engine, adapter, 3)
        tokens.append(generate(engine, [Request(prompt(9), 0, (active,)), Request(prompt(20), 1)], 10))

    assert tokens[0] == tokens[1]
