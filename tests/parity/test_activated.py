"""Activated LoRA through registry and worker, as PEFT generates with it, and beside everybody else."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from tests.support.pair import Answer, Pair, agrees, answer, running_pair
from tests.support.peft_adapters import QUIET, save_adapter
from tests.support.steps import prompt
from tests.support.worker import MODEL_NAME, save_model, tiny_llama

pytestmark = QUIET
INVOCATION = [90, 17, 90]
BEFORE = prompt(37, seed=3)
PROMPTS = [
    [*BEFORE, *INVOCATION, 5, 6],
    [*INVOCATION, *BEFORE, *INVOCATION],
    [*INVOCATION, 7],
    [*BEFORE, 90, 17],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of PEFT's own making."""
    return save_adapter(
        tiny_llama(),
        tmp_path_factory.mktemp("activated"),
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "down_proj"],
        alora_invocation_tokens=INVOCATION,
    )


@pytest.fixture
async def pair(tmp_path: Path, folder: Path) -> AsyncIterator[Pair]:
    async with running_pair(tmp_path, save_model(tmp_path / "model"), prefill_tokens=16) as pair:
        await pair.registry.push(folder, "judge", base=MODEL_NAME)
        yield pair


async def asked(pair: Pair, tokens: Sequence[int], adapters: object = "judge") -> Answer:
    return await answer(pair.worker, None, tokens=tokens, adapters=adapters)


@torch.no_grad()
def generated(folder: Path, tokens: Sequence[int], length: int = 6) -> list[int]:
    """What PEFT generates, its own KV cache and all."""
    adapted = PeftModel.from_pretrained(copy.deepcopy(tiny_llama()), folder).eval()
    out = adapted.generate(
        input_ids=torch.tensor([list(tokens)]), max_new_tokens=length, do_sample=False, eos_token_id=-1
    )
    return out[0, len(tokens) :].tolist()


async def test_it_answers_as_pefts_generate_does(pair: Pair, folder: Path) -> None:
    for tokens in PROMPTS:
        given = await asked(pair, tokens)
        assert given.tokens == generated(folder, tokens)
        assert agrees(given, tiny_llama(), [folder], tokens)


async def test_beside_the_base_and_after_it_nothing_changes(pair: Pair, folder: Path) -> None:
    await pair.publish("plain")
    selections = ["judge", [], "plain", "judge"]
    jobs = [(tokens, adapters) for tokens in PROMPTS for adapters in selections]
    for _ in range(2):  # the second time with what the first left in the KV cache
        answers = await asyncio.gather(*(asked(pair, tokens, adapters) for tokens, adapters in jobs))
        for (tokens, adapters), given in zip(jobs, answers, strict=True):
            folders = {"judge": [folder], "plain": [pair.path("plain")]}.get(str(adapters), [])
            assert agrees(given, tiny_llama(), folders, tokens), (tokens, adapters)


async def test_a_weight_scales_what_is_active(pair: Pair, folder: Path) -> None:
    given = await asked(pair, PROMPTS[0], {"judge": -0.5})
    assert agrees(given, tiny_llama(), [folder], PROMPTS[0], [-0.5])


async def test_a_prompt_that_does_not_invoke_it_is_told_so(pair: Pair) -> None:
    told = []
    for tokens in (PROMPTS[0], PROMPTS[3]):
        answered = pair.worker.generate(tokens=tokens, adapters="judge", max_new_tokens=1)
        told += [list(message.started.inactive) async for message in answered if message.HasField("started")]
    digest = (await pair.registry.resolve("judge")).digest
    assert told == [[], [digest]]
