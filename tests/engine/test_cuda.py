"""On a CUDA device: paged attention, recorded steps and copies beside them compute what serves everywhere computes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from threading import Event

import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, GPT2Config, LlamaConfig, MistralConfig, PretrainedConfig, Qwen3Config

from compute_worker.contract import ActiveAdapter, Sampling, StepRow
from compute_worker.engine.admission import GENERAL
from compute_worker.engine.attention import Rule
from compute_worker.engine.cuda.decode import BATCHES
from compute_worker.engine.cuda.varlen import VARLEN, Places, flash
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.selfcheck import TOLERANCE
from tests.support.models import from_config
from tests.support.paged import twin
from tests.support.peft_adapters import QUIET, facts_of, save_adapter, weights_of
from tests.support.steps import install, run

pytestmark = [pytest.mark.gpu, QUIET]
# Small, since their random weights make wider ones so sharp that rounding to bfloat16 alone is seen in every logit.
_COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = LlamaConfig(**_COMMON, head_dim=64)
SERVED = [
    LLAMA,
    MistralConfig(**_COMMON, head_dim=16, sliding_window=300),
    Qwen3Config(**_COMMON, head_dim=128),
    GPT2Config(vocab_size=512, n_positions=2048, n_embd=64, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2),
]
# Tokens that a request of these tests has room for.
ROOM = 1024
# Within a block, at its end, beyond a first and a second one, and a single token.
LENGTHS = (40, 256, 300, 700, 1)
DTYPES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, torch sees none")


def on_cuda(config: PretrainedConfig, executor: str = "auto", dtype: torch.dtype = DTYPES[0]) -> TransformersEngine:
    return TransformersEngine(from_config(config).to("cuda", dtype), Budgets(64 << 20, 64 << 20), executor)


def prompt(length: int) -> list[int]:
    return torch.randint(3, 512, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def row(
    engine: TransformersEngine, seat: int, tokens: list[int], begin: int, adapters: tuple[ActiveAdapter, ...] = ()
) -> StepRow:
    """The tokens from `begin` on, of a request whose KV lies in blocks of its own, in descending order."""
    count = ROOM // engine.limits.block_tokens
    blocks = tuple(range((seat + 1) * count - 1, seat * count - 1, -1))
    return StepRow(tokens[begin:], begin, blocks, adapters, Sampling(), tokens, 0)


def steps(engine: TransformersEngine, uses: Sequence[tuple[ActiveAdapter, ...]]) -> list[list[Tensor]]:
    """Logits of prompts in two chunks, then of decode steps; the second chunk of one stands beside decode rows."""
    prompts = [prompt(length + 4) for length in LENGTHS[: len(uses)]]
    cuts = [(0, max(1, length // 2), length, length + 1, length + 2, length + 3) for length in LENGTHS]
    logits = []
    for turn in range(5):
        rows = [
            row(engine, seat, tokens[: ends[turn + 1]], ends[turn], adapters)
            for seat, (tokens, ends, adapters) in enumerate(zip(prompts, cuts, uses, strict=False))
            if ends[turn] < ends[turn + 1]
        ]
        logits.append(run(engine, rows))
    return logits


def assert_near(got: list[list[Tensor]], expected: list[list[Tensor]], dtype: torch.dtype) -> None:
    """As far apart as two ways to round the same sums are, and no further: what the check at start allows."""
    for mine, theirs in zip(chain.from_iterable(got), chain.from_iterable(expected), strict=True):
        assert float((mine.float() - theirs.float()).norm() / theirs.float().norm()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 1, 100, 300])
@pytest.mark.parametrize("heads", [(4, 4, 64), (8, 2, 128), (6, 1, 40), (2, 2, 256)], ids=str)
@pytest.mark.parametrize("queries", [(1, 1, 1), (1, 1, 60, 1, 300), (257,)], ids=str)
def test_the_kernel_means_by_its_tables_what_they_say(
    dtype: torch.dtype, window: int | None, heads: tuple[int, int, int], queries: Sequence[int]
) -> None:
    mine, theirs, size = heads
    generator = torch.Generator("cuda").manual_seed(size)
    noise = lambda *shape: torch.randn(*shape, generator=generator, device="cuda").to(dtype)  # noqa: E731 - short
    seen = [count + 173 * place for place, count in enumerate(queries)]
    blocks = torch.randperm(64)[: len(seen) * 8].view(-1, 8)
    as_int = lambda numbers: torch.tensor(numbers, dtype=torch.int32, device="cuda")  # noqa: E731 - likewise
    places = Places(
        as_int([]),
        as_int([0, *accumulate(queries)]),
        as_int(seen),
        as_int([0, *accumulate(seen)]),
        blocks.to("cuda", torch.int32),
        max(queries),
        max(seen),
    )
    query = noise(sum(queries), mine, size)
    keys, values = noise(64, VARLEN.block_tokens, theirs, size), noise(64, VARLEN.block_tokens, theirs, size)
    rule = Rule(size**-0.5, window)

    got = flash(query, keys, values, places, rule)

    expected = twin(query.float(), keys.float(), values.float(), places, rule)
    torch.testing.assert_close(got.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", SERVED, ids=lambda config: config.model_type)
def test_paged_and_recorded_steps_are_those_of_the_gathered_attention(
    config: PretrainedConfig, dtype: torch.dtype
) -> None:
    engine, plain = on_cuda(config, dtype=dtype), on_cuda(config, GENERAL, dtype)

    assert (engine.executor, plain.executor) == ("transformers-varlen-recorded", GENERAL)
    assert_near(steps(engine, [()] * 5), steps(plain, [()] * 5), dtype)


@pytest.mark.parametrize("config", SERVED, ids=lambda config: config.model_type)
def test_a_gpu_is_as_near_to_float32_as_plain_torch_is_on_it(config: PretrainedConfig) -> None:
    exact = chain.from_iterable(steps(TransformersEngine(from_config(config), Budgets(64 << 20, 64 << 20)), [()] * 5))
    wanted = torch.stack(list(exact))
    far = []
    for executor in ("auto", GENERAL):
        logits = torch.stack(list(chain.from_iterable(steps(on_cuda(config, executor), [()] * 5))))
        far.append(float((logits.cpu().float() - wanted).norm()))

    assert far[0] < 1.5 * far[1]


@pytest.mark.parametrize("config", SERVED, ids=lambda config: config.model_type)
def test_adapters_of_every_kind_beside_each_other(config: PretrainedConfig, tmp_path: Path) -> None:
    kinds = ({"r": 4}, {"r": 7, "lora_alpha": 9}, {"r": 2, "use_dora": True})
    folders = [
        save_adapter(from_config(config), tmp_path / str(more["r"]), target_modules="all-linear", **more)
        for more in kinds
    ]
    logits = []
    for executor in ("auto", GENERAL):
        engine = on_cuda(config, executor)
        one, two, dora = (install(engine, folder, 10 * place) for place, folder in enumerate(folders))
        plain = ((one,), (), (replace(one, weight=-0.5), replace(two, weight=0.75)), (two,), (one,))
        logits.append(steps(engine, plain) + steps(engine, ((dora,), *plain[1:])))

    assert_near(*logits, torch.bfloat16)


@pytest.mark.parametrize(
    ("config", "dtype", "reason"),
    [
        (LLAMA, torch.float32, "expected a half precision throughout"),
        (LlamaConfig(**_COMMON | {"max_position_embeddings": 128}), torch.bfloat16, "expected a context of two blocks"),
        (Gemma2Config(**_COMMON, head_dim=32, sliding_window=300), torch.bfloat16, "neither a softcap nor sinks"),
    ],
    ids=["float32", "short", "softcap"],
)
def test_what_it_cannot_do_stays_with_the_gathered_attention(
    config: PretrainedConfig, dtype: torch.dtype, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        engine = on_cuda(config, dtype=dtype)

    assert engine.executor == GENERAL
    assert reason in caplog.text


def decoded(engine: TransformersEngine, uses: Sequence[tuple[ActiveAdapter, ...]], count: int) -> list[list[int]]:
    """Greedy tokens of as many requests, `count` each."""
    contexts = [prompt(20 + seat) for seat in range(len(uses))]
    done = [0] * len(uses)
    for _ in range(count):
        rows = [
            row(engine, seat, context, begin, adapters)
            for seat, (context, begin, adapters) in enumerate(zip(contexts, done, uses, strict=True))
        ]
        done = [len(context) for context in contexts]
        for context, drawn in zip(contexts, engine.step(rows), strict=True):
            context.append(drawn.token)  # type: ignore[union-attr] # every row draws
    return [context[-count:] for context in contexts]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_a_batch_that_is_filled_up_draws_what_its_rows_draw_alone(count: int) -> None:
    engine = on_cuda(LLAMA, dtype=torch.float16)
    assert count <= BATCHES[-1]

    logits = run(engine, [row(engine, seat, prompt(20 + seat), 0) for seat in range(count)])
    together = run(engine, [row(engine, seat, [*prompt(20 + seat), 9], 20 + seat) for seat in range(count)])

    assert len(logits) == count
    for seat, got in enumerate(together):
        (alone,) = run(engine, [row(engine, seat, [*prompt(20 + seat), 9], 20 + seat)])
        assert_near([[got]], [[alone]], torch.float16)


def test_adapters_are_installed_while_others_are_in_use(tmp_path: Path) -> None:
    folders = [
        save_adapter(from_config(LLAMA), tmp_path / str(rank), seed=rank, r=rank, target_modules="all-linear")
        for rank in (4, 8)
    ]
    engine = on_cuda(LLAMA)
    used = install(engine, folders[0], 0)
    coming = engine.read(weights_of(folders[1]), facts_of(folders[1]))
    assert all(module.a.is_pinned() and module.b.is_pinned() for module in coming.modules.values())
    expected, done = decoded(engine, [(used,), ()], 20), Event()

    def keep_installing() -> int:
        count = 0
        while not done.is_set():
            engine.install(coming, 8 + 8 * (count % 2))
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        installs = pool.submit(keep_installing)
        try:
            got = [decoded(engine, [(used,), ()], 20) for _ in range(5)]
        finally:
            done.set()

    assert got == [expected] * 5
    assert installs.result() > 0


def test_what_was_installed_last_is_what_the_next_step_uses(tmp_path: Path) -> None:
    """Again and again in the same rows: neither a recorded step nor a prompt's sees the adapter before."""
    folders = [
        save_adapter(from_config(LLAMA), tmp_path / str(seed), seed=seed, r=4, target_modules="all-linear")
        for seed in (1, 2)
    ]
    engine = on_cuda(LLAMA)
    loaded = [engine.read(weights_of(folder), facts_of(folder)) for folder in folders]
    active = ActiveAdapter(4, 4, 1.0)
    alone = []
    for adapter in loaded:
        engine.install(adapter, 4)
        alone.append(decoded(engine, [(active,)], 10))
    assert alone[0] != alone[1]

    for turn in range(20):
        engine.install(loaded[turn % 2], 4)
        assert decoded(engine, [(active,)], 10) == alone[turn % 2]


def test_blocks_that_hold_infinities_can_be_used_again() -> None:
    engine = on_cuda(LLAMA)
    expected = decoded(engine, [(), ()], 10)

    for layer in range(2):
        for memory in engine._kv.memory(layer):
            memory.fill_(float("nan"))

    assert decoded(engine, [(), ()], 10) == expected
