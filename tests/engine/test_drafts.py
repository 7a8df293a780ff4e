"""A draft changes how many tokens a step gives, and none of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compute_worker.contract import Drawn, Sampling
from compute_worker.engine.admission import AUTO, GENERAL
from compute_worker.engine.engine import TransformersEngine
from tests.support.models import tiny_model
from tests.support.peft_adapters import QUIET, save_adapter
from tests.support.steps import Request, engine_of, generate, install, prompt

pytestmark = QUIET
SEED = 4
COUNT = 24
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=1.0, top_k=9, seed=5),
    Sampling(temperature=0.7, repetition_penalty=1.4, seed=6, logprobs=1),
    Sampling(repetition_penalty=1.5),
)

# The next guesses of an answer, from all of it and how much of it was drawn.
Draft = Callable[[Sequence[int], int], Sequence[int]]


def with_drafts(engine: TransformersEngine, requests: Sequence[Request], drafts: Sequence[Draft]) -> list[list[int]]:
    """What each request draws where drafts are verified beside it; as `generate`."""
    answers = generate(engine, requests, COUNT)
    contexts, done = [[*request.tokens] for request in requests], [0] * len(requests)
    while any(len(context) < len(request.tokens) + COUNT for context, request in zip(contexts, requests, strict=True)):
        rows = []
        for request, context, begin, answer, draft in zip(requests, contexts, done, answers, drafts, strict=True):
            drawn = len(context) - len(request.tokens)
            row = replace(request, tokens=context).row(begin, len(context))
            rows.append(replace(row, sample=request.sampling, index=drawn, draft=draft(answer, drawn) if drawn else ()))
        done = [len(context) for context in contexts]
        for index, (row, result) in enumerate(zip(rows, engine.step(rows), strict=True)):
            draws = (result,) if isinstance(result, Drawn) else result
            assert isinstance(draws, tuple)
            assert len(draws) <= 1 + len(row.draft)
            contexts[index] += [each.token for each in draws]
            done[index] += len(draws) - 1
    return [context[len(request.tokens) :][:COUNT] for context, request in zip(contexts, requests, strict=True)]


def right(answer: Sequence[int], drawn: int) -> Sequence[int]:
    return answer[drawn : drawn + 3]


def wrong(answer: Sequence[int], drawn: int) -> Sequence[int]:
    return [token ^ 1 for token in answer[drawn : drawn + 3]]


def mixed(answer: Sequence[int], drawn: int) -> Sequence[int]:
    draw = random.Random(SEED + drawn)  # noqa: S311 - a repeatable mix
    return [draw.choice([token, token, 7]) for token in answer[drawn : drawn + draw.randrange(5)]]


def none(answer: Sequence[int], drawn: int) -> Sequence[int]:  # noqa: ARG001 - one form for all
    return ()


@pytest.mark.parametrize("executor", [AUTO, GENERAL])
def test_answers_are_those_without_drafts(executor: str, tmp_path: Path) -> None:
    engine = engine_of(tiny_model("llama"), executor=executor)
    folder = save_adapter(tiny_model("llama"), tmp_path, r=3, target_modules="all-linear")
    active = install(engine, folder, 0)
    for drafts in ((right, wrong, mixed, none), (mixed, mixed, right, wrong), (none, right, none, mixed)):
        requests = [
            Request(prompt(7 + 5 * seat, seat), seat, (active,) if seat % 2 else (), sampling)
            for seat, sampling in enumerate(SAMPLINGS)
        ]
        assert with_drafts(engine, requests, drafts) == generate(engine, requests, COUNT)


def test_log_probabilities_are_those_without_drafts() -> None:
    engine = engine_of(tiny_model("llama"))
    request = Request(prompt(9), 0, sampling=Sampling(logprobs=2))
    answer = generate(engine, [request], 4)[0]

    def step(begin: int, tokens: Sequence[int], index: int, draft: Sequence[int]) -> object:
        row = replace(request, tokens=tokens).row(begin, len(tokens))
        return engine.step([replace(row, sample=request.sampling, index=index, draft=draft)])[0]

    step(0, request.tokens, 0, ())
    alone = [step(8 + at, [*request.tokens, *answer[:at]], at, ()) for at in (1, 2, 3)]
    together = step(9, [*request.tokens, answer[0]], 1, answer[1:3])
    assert isinstance(together, tuple)
    for got, want in zip(together, alone, strict=True):
        assert isinstance(want, Drawn)
        assert want.logprob is not None
        assert (got.token, [token for token, _ in got.top]) == (want.token, [token for token, _ in want.top])
        torch.testing.assert_close(got.logprob, want.logprob, rtol=1e-5, atol=1e-5)
