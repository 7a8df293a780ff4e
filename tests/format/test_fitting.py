"""The verdict on the kinds beyond LoRA on linear layers, module by module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.compatibility import judge
from lorry.format.derive import outline
from lorry.format.findings import Code
from lorry.format.header import header_length
from tests.support.adapters import MODULES, base_for
from tests.support.tiny_kinds import (
    DELTA,
    EMBED,
    EXPERTS,
    HEAD,
    KINDS,
    NORM,
    TARGETS,
    TOKENS,
    Kind,
    Q,
    embedding_lora,
    resized,
)

BASE = base_for()


def findings(kind: Kind, base: BaseFacts = BASE) -> list[tuple[Code, str, bool]]:
    config, weights = kind.bytes()
    facts = outline(config, weights[: header_length(weights[:8])], len(weights))
    return [(finding.code, finding.module, finding.warning) for finding in judge(facts, base, claimed=base)]


def verdict(extra: dict[str, tuple[int, ...]], base: BaseFacts = BASE, **config: Any) -> list[tuple[Code, str, bool]]:
    return findings(Kind(extra, config), base)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in {"norm", "bias-all", "experts"}])
def test_an_adapter_of_each_kind_fits_its_own_base(name: str) -> None:
    assert findings(KINDS[name]) == []


@pytest.mark.parametrize("name", ["norm", "bias-all", "experts"])
def test_norms_and_experts_are_left_to_the_worker_with_a_remark(name: str) -> None:
    assert findings(KINDS[name]) == [(Code.UNKNOWN_MODULE, "", True)]


def with_experts(**changes: Any) -> BaseFacts:
    """The base with the layer of experts that the smallest adapter of such adapts, and these sizes of its down."""
    gate_up = BaseModule(f"{EXPERTS}.gate_up_proj", ModuleKind.EXPERTS, 8, 12, 3)
    down = BaseModule(f"{EXPERTS}.down_proj", ModuleKind.EXPERTS, 6, 8, 3)
    return replace(BASE, modules=(*BASE.modules, replace(down, **changes), gate_up))


def test_experts_that_the_base_has_in_its_table_fit() -> None:
    assert findings(KINDS["experts"], with_experts()) == []


@pytest.mark.parametrize("changes", [{"experts": 4}, {"in_features": 7}, {"out_features": 9}], ids=str)
def test_experts_of_another_number_or_width_are_a_reason(changes: dict[str, int]) -> None:
    path = f"{EXPERTS}.down_proj"

    assert findings(KINDS["experts"], with_experts(**changes)) == [(Code.SHAPE_MISMATCH, path, False)]


def test_experts_of_another_layer_than_the_bases_are_a_reason() -> None:
    base = with_experts(name="model.layers.2.mlp.experts.down_proj")

    assert findings(KINDS["experts"], base) == [(Code.UNKNOWN_MODULE, f"{EXPERTS}.down_proj", False)]


def test_a_stack_of_experts_is_no_module_to_any_other_kind() -> None:
    path = f"{EXPERTS}.down_proj"
    lora = {f"{path}.lora_A.weight": (2, 6), f"{path}.lora_B.weight": (8, 2)}
    found = [
        verdict(lora, with_experts(), target_modules=None),
        verdict({f"{path}.weight": (8, 6)}, with_experts(), modules_to_save=["down_proj"]),
        verdict({f"{path}.{DELTA}": (2, 8)}, with_experts(), trainable_token_indices={"experts.down_proj": [1, 2]}),
    ]

    assert found == [[(Code.UNKNOWN_MODULE, path, False)]] * len(found)


def test_remarks_on_norms_are_one_however_many_there_are() -> None:
    norms = {f"model.layers.{i}.norm.weight": (8,) for i in range(9)}

    assert verdict(norms, modules_to_save=["norm"]) == [(Code.UNKNOWN_MODULE, "", True)]


@pytest.mark.parametrize(
    ("extra", "config", "code", "module"),
    [
        ({"score.weight": (2, 8)}, {"modules_to_save": ["score"]}, Code.UNKNOWN_MODULE, "score"),
        ({f"{HEAD}.weight": (32, 9)}, {"modules_to_save": ["lm_head"]}, Code.SHAPE_MISMATCH, HEAD),
        ({f"{HEAD}.weight": (32,)}, {"modules_to_save": ["lm_head"]}, Code.SHAPE_MISMATCH, HEAD),
        ({f"{EMBED}.bias": (8,)}, {"modules_to_save": ["embed_tokens"]}, Code.SHAPE_MISMATCH, EMBED),
        ({f"{HEAD}.weight": (40, 8)}, {"modules_to_save": ["lm_head"]}, Code.VOCABULARY_MISMATCH, HEAD),
        ({f"{EMBED}.weight": (24, 8)}, {"modules_to_save": ["embed_tokens"]}, Code.VOCABULARY_MISMATCH, EMBED),
        ({f"{HEAD}.weight": (40, 8), f"{EMBED}.weight": (41, 8)}, {}, Code.VOCABULARY_MISMATCH, HEAD),
        (embedding_lora(rows=40), {"target_modules": TARGETS}, Code.VOCABULARY_MISMATCH, EMBED),
        (
            {f"{Q}x.lora_embedding_A": (2, 8), f"{Q}x.lora_embedding_B": (8, 2)},
            {"target_modules": None},
            Code.UNKNOWN_MODULE,
            f"{Q}x",
        ),
        (
            {f"{HEAD}.lora_embedding_A": (2, 8), f"{HEAD}.lora_embedding_B": (32, 2)},
            {"target_modules": None},
            Code.UNSUPPORTED_VARIANT,
            HEAD,
        ),
        ({f"wte.{DELTA}": (2, 8)}, {"trainable_token_indices": [1, 2]}, Code.UNKNOWN_MODULE, "wte"),
        ({f"{EMBED}.{DELTA}": (2, 9)}, {"trainable_token_indices": [1, 2]}, Code.SHAPE_MISMATCH, EMBED),
        (TOKENS, {"trainable_token_indices": [1, 32]}, Code.VOCABULARY_MISMATCH, EMBED),
        ({}, {"alora_invocation_tokens": [1, 32]}, Code.VOCABULARY_MISMATCH, ""),
    ],
)
def test_what_the_base_does_not_have_in_this_shape_is_a_reason(
    extra: dict[str, tuple[int, ...]], config: dict[str, object], code: Code, module: str
) -> None:
    assert verdict(extra, **config) == [(code, module, False)]


def test_tokens_of_a_linear_layer_within_the_model_are_unsupported() -> None:
    base = base_for({**MODULES, "model.inner": (8, 8, 2)})

    assert verdict({f"model.inner.{DELTA}": (2, 8)}, base, trainable_token_indices={"inner": [1, 2]}) == [
        (Code.UNSUPPORTED_VARIANT, "model.inner", False)
    ]


def test_tokens_count_in_the_adapters_own_vocabulary() -> None:
    inside = resized(40, ".token_adapter.base_layer")

    assert verdict({**TOKENS, **inside}, trainable_token_indices=[1, 39]) == []
    assert verdict({**TOKENS, **inside}, trainable_token_indices=[1, 40]) == [(Code.VOCABULARY_MISMATCH, EMBED, False)]


def test_a_smaller_vocabulary_at_both_ends_fits() -> None:
    assert verdict(dict(resized(24))) == []


def test_a_bias_of_another_width_is_a_shape_mismatch() -> None:
    base = base_for({**MODULES, "model.inner": (8, 6, 2)})

    assert verdict({"model.inner.bias": (8,)}, base, bias="all") == [(Code.SHAPE_MISMATCH, "model.inner", False)]
    assert verdict({"model.inner.bias": (6,)}, base, bias="all") == []
    assert verdict({f"{EMBED}.bias": (8,)}, bias="all") == [(Code.SHAPE_MISMATCH, EMBED, False)]


def test_a_conv1d_is_replaced_in_its_own_orientation() -> None:
    base = replace(BASE, modules=(*BASE.modules, BaseModule("h.0.c_fc", ModuleKind.CONV1D, 8, 16)))

    assert verdict({"h.0.c_fc.weight": (8, 16), "h.0.c_fc.bias": (16,)}, base, modules_to_save=["c_fc"]) == []
    assert verdict({"h.0.c_fc.weight": (16, 8)}, base, modules_to_save=["c_fc"]) == [
        (Code.SHAPE_MISMATCH, "h.0.c_fc", False)
    ]


def test_a_norms_bias_and_a_norm_are_told_together() -> None:
    found = verdict({f"{NORM}.weight": (8,), "model.other.bias": (8,)}, modules_to_save=["norm"], bias="all")

    assert found == [(Code.UNKNOWN_MODULE, "", True)]
