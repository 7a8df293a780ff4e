"""PEFT's own mixed batches (`adapter_names`), row by row: base, one adapter, another, and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from compute_worker.contract import ActiveAdapter
from compute_worker.engine.admission import AUTO, GENERAL
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run_all

pytestmark = QUIET
TOLERANCE = 1e-4
ROWS = 9
PROMPTS = [[*prompt(12, seed), 5, 101] for seed in range(ROWS)]
# Family, and what two adapters have besides rank and alpha.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "same modules": ("llama", {"target_modules": ["q_proj"]}, {"target_modules": ["q_proj"], "r": 16}),
    "different modules": ("llama", {"target_modules": ["q_proj"]}, {"target_modules": ["v_proj"]}),
    "partly the same": ("llama", {"target_modules": ["q_proj"]}, {"target_modules": ["q_proj", "down_proj"]}),
    "both replace the head": (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ),
    "embeddings": ("llama", {"target_modules": ["embed_tokens"]}, {"target_modules": ["embed_tokens"], "r": 16}),
    "embeddings and a replaced head": (
        "llama",
        {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "v_proj"], "modules_to_save": ["lm_head"]},
    ),
    "trained tokens": (
        "llama",
        {"target_modules": ["q_proj"], "trainable_token_indices": [5]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [101, 5]},
    ),
    "conv1d": ("gpt2", {"target_modules": ["c_attn"]}, {"target_modules": ["c_attn", "c_fc"], "r": 16}),
}


@torch.no_grad()
def peft_batch(family: str, folders: list[Path]) -> Tensor:
    """Logits behind the last token of each row, [rows, vocabulary]."""
    model = PeftModel.from_pretrained(tiny_model(family), folders[0], adapter_name="adapter0")
    model.load_adapter(folders[1], adapter_name="adapter1")
    names = [("__base__", "adapter0", "adapter1")[row % 3] for row in range(ROWS)]
    logits: Tensor = model.eval()(input_ids=torch.tensor(PROMPTS), adapter_names=names, use_cache=False).logits
    return logits[:, -1]


@pytest.mark.parametrize("executor", [AUTO, GENERAL])
@pytest.mark.parametrize("case", CASES)
def test_every_row_is_its_own_adapters(case: str, executor: str, tmp_path: Path) -> None:
    family, *configs = CASES[case]
    folders = [
        save_adapter(tiny_model(family), tmp_path / str(seed), seed=seed, **{"r": 4, "lora_alpha": 6} | config)
        for seed, config in enumerate(configs)
    ]
    engine = engine_of(tiny_model(family), pool_bytes=4 << 20, executor=executor)
    first = install(engine, folders[0], 0)
    second = install(engine, folders[1], first.rank + 3)
    active: list[tuple[ActiveAdapter, ...]] = [(), (first,), (second,)]

    got = run_all(engine, [Request(tokens, row, active[row % 3]) for row, tokens in enumerate(PROMPTS)])

    assert (torch.stack(got) - peft_batch(family, folders)).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("case", "missed"), [("both replace the head", "adapter1"), ("trained tokens", "tokens_delta")]
)
def test_one_that_replaces_something_is_served_beside_one_that_does_not_where_peft_fails(
    case: str, missed: str, tmp_path: Path
) -> None:
    configs = CASES[case][1], CASES["different modules"][2]
    folders = [
        save_adapter(tiny_model("llama"), tmp_path / str(seed), seed=seed, **config)
        for seed, config in enumerate(configs)
    ]
    with pytest.raises(KeyError, match=missed):
        peft_batch("llama", folders)
    engine = engine_of(tiny_model("llama"), pool_bytes=4 << 20)
    first = install(engine, folders[0], 0)
    active: list[tuple[ActiveAdapter, ...]] = [(), (first,), (install(engine, folders[1], first.rank),)]

    got = run_all(engine, [Request(tokens, row, active[row % 3]) for row, tokens in enumerate(PROMPTS)])

    for row, (logits, tokens) in enumerate(zip(got, PROMPTS, strict=True)):
        alone = peft_logits(tiny_model("llama"), [[], folders[:1], folders[1:]][row % 3], tokens)[-1]
        assert (logits - alone).abs().max() < TOLERANCE
