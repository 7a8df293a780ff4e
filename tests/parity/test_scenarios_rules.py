"""PEFT's cases of what needs no model that runs: ranks and scalings by pattern, and where an activated LoRA begins."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.variants import calculate_alora_offsets
from torch import nn

from compute_worker.runtime.activation import last_start
from lorry.format.config import parse_config
from tests.support.adapters import peft_config

# Of test_tuners_utils.py::TestRankAndAlphaPattern; keys match from the beginning of a path, or behind a dot.
PATTERNS: list[dict[str, int]] = [
    {},
    {"bla": 4, "oof": 6},
    {"foo": 16},
    {"^foo": 16},
    {"^module.foo": 16},
    {"module.module.foo": 16},
    {"^module.module.foo": 16},
    {"module.foo": 16},
    {"^module.foo": 16, "^module.module.foo": 24},
    {"^foo": 16, "^module.foo": 24},
    {"^foo": 16, "module.module.foo": 24},
    {"^foo": 16, "^module.module.foo": 24},
    {"^foo": 16, "^module.foo": 24, "^module.module.foo": 32},
    {"^module.module.foo": 32, "^module.foo": 24, "^foo": 16},
    # Beside PEFT's own: several match one path, and the first of them counts.
    {"foo": 16, "module.foo": 24},
    {"module.foo": 24, "foo": 16},
]


def model() -> nn.Module:
    """foo and bar, in module foo and foobar, in its module foo and barfoo."""
    outer, middle, inner = nn.Module(), nn.Module(), nn.Module()
    for layer, names in ((outer, ("foo", "bar")), (middle, ("foo", "foobar")), (inner, ("foo", "barfoo"))):
        for name in names:
            layer.add_module(name, nn.Linear(1, 1))
    middle.add_module("module", inner)
    outer.add_module("module", middle)
    return outer


@pytest.mark.filterwarnings("ignore:.* keys did not match any targeted module:RuntimeWarning")
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_ranks_and_scalings_by_pattern_are_pefts(field: str, pattern: dict[str, int]) -> None:
    adapted = get_peft_model(model(), LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", **{field: pattern}))
    theirs = {
        name.removeprefix("base_model.model."): (layer.r["default"], layer.scaling["default"])
        for name, layer in adapted.named_modules()
        if isinstance(layer, LoraLayer)
    }
    config = parse_config(json.dumps(peft_config(r=8, lora_alpha=8, target_modules=None, **{field: pattern})).encode())
    assert len(theirs) == 6
    assert {name: (config.rank_of(name), config.scaling_of(name)) for name in theirs} == theirs


def peft_start(tokens: list[int], invocation: list[int] | None) -> int | None:
    """Where PEFT begins; it counts from the end."""
    config = {"a": LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=invocation)}
    (offset,) = calculate_alora_offsets(config, "a", torch.tensor([tokens]))
    return None if offset is None else len(tokens) - offset


@pytest.mark.parametrize(
    ("tokens", "invocation", "start"),
    [
        ([0, 1, 2, 3], [1, 2], 1),
        ([0, 4, 5, 6], [1, 2], None),
        ([1, 2, 1, 2], [1, 2], 2),
        ([0, 4, 1, 2], [1, 2], 2),
        ([1, 2, 3, 4], [1, 2], 0),
        ([0, 4, 1, 4], [1, 2], None),
        ([0, 1, 1], [1], 2),
        ([0, 2, 2], [2], 2),
    ],
)
def test_an_activated_lora_begins_where_pefts_does(tokens: list[int], invocation: list[int], start: int | None) -> None:
    assert last_start(invocation, tokens) == start == peft_start(tokens, invocation)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_it_does_in_every_prompt(tokens: list[int], invocation: list[int]) -> None:
    assert last_start(invocation, tokens) == peft_start(tokens, invocation)
