"""Adapters with a vocabulary of their own, wider or narrower than the base's, beside requests that have the base's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from compute_worker.contract import Drawn, Sampling, Scored
from compute_worker.engine.admission import EXECUTORS
from compute_worker.engine.engine import TransformersEngine
from tests.support.kinds import resized_model
from tests.support.models import VOCABULARY, tiny_model
from tests.support.peft_adapters import QUIET, facts_of, peft_logits, save_adapter, weights_of
from tests.support.steps import Request, engine_of, generate, install, prompt, run_all

pytestmark = QUIET
TOLERANCE = 1e-4
SIZES = {"wide": VOCABULARY + 9, "narrow": VOCABULARY - 30}
CONFIG = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
# Ids that all vocabularies have, and one that only the widest has.
SHARED = [token % SIZES["narrow"] for token in prompt(12)]
PROMPTS = {"base": SHARED, "narrow": SHARED, "wide": [*SHARED[:5], SIZES["wide"] - 1, *SHARED[5:]]}


class World:
    """A base, tied or not, an engine of it, and two adapters that were trained on it resized."""

    def __init__(self, family: str, executor: str, root: Path) -> None:
        self.engine: TransformersEngine = engine_of(tiny_model(family), pool_bytes=4 << 20, executor=executor)
        self.models: dict[str, PreTrainedModel] = {"base": tiny_model(family)}
        self.folders: dict[str, Path] = {}
        self.requests = {"base": Request(PROMPTS["base"], 0)}
        for seat, (name, tokens) in enumerate(SIZES.items(), 1):
            self.models[name] = resized_model(family, tokens)
            self.folders[name] = save_adapter(self.models[name], root / name, seed=seat, **CONFIG)
            active = install(self.engine, self.folders[name], 100 * seat)
            self.requests[name] = Request(PROMPTS[name], seat, (active,))

    def sampled(self, sampling: Sampling) -> list[Request]:
        """The requests with a way to draw."""
        return [replace(request, sampling=sampling) for request in self.requests.values()]


@pytest.fixture(scope="module", params=[(f, e) for f in ("llama", "qwen3") for e in EXECUTORS], ids="-".join)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(*request.param, tmp_path_factory.mktemp("resized"))


def test_an_adapter_tells_its_vocabulary(world: World) -> None:
    for name, folder in world.folders.items():
        adapter = world.engine.read(weights_of(folder), facts_of(folder))
        assert adapter.vocab == SIZES[name]
        assert adapter.exclusive


def test_each_rows_logits_are_pefts_and_as_wide_as_its_own_vocabulary(world: World) -> None:
    got = run_all(world.engine, list(world.requests.values()))

    for (name, request), logits in zip(world.requests.items(), got, strict=True):
        folders = [world.folders[name]] if name in world.folders else []
        expected = peft_logits(world.models[name], folders, request.tokens)[-1]
        assert (logits[: len(expected)] - expected).abs().max() < TOLERANCE, name
        assert (logits[len(expected) :] == float("-inf")).all()


def test_greedy_answers_are_pefts(world: World) -> None:
    answers = generate(world.engine, list(world.requests.values()), 6)

    for (name, request), answer in zip(world.requests.items(), answers, strict=True):
        folders = [world.folders[name]] if name in world.folders else []
        logits = peft_logits(world.models[name], folders, [*request.tokens, *answer])
        assert answer == logits[len(request.tokens) - 1 : -1].argmax(-1).tolist(), name


def test_draws_and_log_probabilities_do_not_depend_on_the_width_beside_them(world: World) -> None:
    requests = world.sampled(Sampling(temperature=1.5, seed=5, logprobs=3))
    rows = [request.row(0, len(request.tokens)) for request in requests]

    together = world.engine.step(rows)

    for row, got in zip(rows, together, strict=True):
        (alone,) = world.engine.step([row])
        assert isinstance(got, Drawn)
        assert isinstance(alone, Drawn)
        assert got.token == alone.token
        assert [token for token, _ in got.top] == [token for token, _ in alone.top]
        assert got.logprob == pytest.approx(alone.logprob, abs=TOLERANCE)


def test_scores_are_of_each_rows_own_vocabulary(world: World) -> None:
    targets = {name: request.tokens[-4:] for name, request in world.requests.items()}
    rows = [
        replace(request.row(0, len(request.tokens) - 1), sample=None, targets=targets[name])
        for name, request in world.requests.items()
    ]

    for (name, request), scored in zip(world.requests.items(), world.engine.step(rows), strict=True):
        folders = [world.folders[name]] if name in world.folders else []
        natural = peft_logits(world.models[name], folders, request.tokens).log_softmax(-1)[-5:-1]
        assert isinstance(scored, Scored)
        wanted = natural.gather(1, torch.tensor(targets[name])[:, None])[:, 0]
        assert torch.tensor(scored.logprobs).sub(wanted).abs().max() < TOLERANCE, name
