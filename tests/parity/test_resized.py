"""A vocabulary that was resized before training: what PEFT then saves unasked is served as PEFT computes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from compute_worker.engine.admission import EXECUTORS
from tests.support.kinds import resized_model
from tests.support.models import VOCABULARY, tiny_model
from tests.support.peft_adapters import QUIET, facts_of, peft_logits, save_adapter
from tests.support.steps import Request, engine_of, install, prompt, run_all

pytestmark = QUIET
TOLERANCE = 1e-4
WIDE = VOCABULARY + 9
NEW = [VOCABULARY + 2, VOCABULARY + 7]
# What the configuration asks for besides; PEFT writes both ends of the model in any case.
KINDS: dict[str, dict[str, object]] = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [*NEW, 5]},
    "tokens-by-name": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [*NEW, 5]}},
    "dora": {"target_modules": ["v_proj"], "use_dora": True},
}
TOKENS = [*prompt(6), *NEW, *prompt(4, seed=1), 5]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_logits_are_pefts_beside_the_bases(family: str, executor: str, tmp_path: Path) -> None:
    engine, model = engine_of(tiny_model(family), pool_bytes=8 << 20, executor=executor), resized_model(family, WIDE)
    folders = {
        name: save_adapter(model, tmp_path / name, embeddings=True, r=2, **config) for name, config in KINDS.items()
    }
    active = {name: install(engine, folder, 100 * seat) for seat, (name, folder) in enumerate(folders.items())}

    base, *rows = run_all(
        engine,
        [
            Request(prompt(9), 0),
            *(Request(TOKENS, seat, (active[name],)) for seat, name in enumerate(KINDS, 1)),
        ],
    )

    assert (base[:VOCABULARY] - peft_logits(tiny_model(family), [], prompt(9))[-1]).abs().max() < TOLERANCE
    for (name, folder), row in zip(folders.items(), rows, strict=True):
        assert "modules_to_save" in facts_of(folder).features
        assert (row[:WIDE] - peft_logits(model, [folder], TOKENS)[-1]).abs().max() < TOLERANCE, name
