"""From configuration and tensor names to facts."""

import math

import pytest

from lorry.errors import InvalidAdapter
from lorry.format.derive import outline
from lorry.format.facts import AdapterFacts, Variant
from lorry.format.header import header_length
from lorry.format.names import tensor_names
from tests.support.adapters import MODULES, adapter_bytes, encode, safetensors_bytes, tensors
from tests.support.hostile import f32

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"


def facts(config: bytes, weights: bytes) -> AdapterFacts:
    return outline(config, weights[: header_length(weights[:8])], len(weights))


def derive(*args: object, **options: object) -> AdapterFacts:
    return facts(*adapter_bytes(*args, **options))


def test_modules_are_listed_by_name_with_shapes_rank_and_scaling() -> None:
    found = derive({Q: (8, 6, 2), DOWN: (16, 8, 2)}, alpha=4)

    assert [(m.name, m.in_features, m.out_features, m.rank, m.scaling) for m in found.modules] == [
        (DOWN, 16, 8, 2, 2.0),
        (Q, 8, 6, 2, 2.0),
    ]
    assert (found.rank, found.alpha, found.base_name, found.dtype) == (2, 4.0, "tiny-base", "F32")


def test_the_rank_of_the_whole_is_the_largest_of_the_modules() -> None:
    found = derive({Q: (8, 8, 2), DOWN: (16, 8, 5)})

    assert found.rank == 5
    assert [module.rank for module in found.modules] == [5, 2]


@pytest.mark.parametrize(
    ("options", "variant", "scaling"),
    [
        ({}, Variant.LORA, 2.0),
        ({"rslora": True}, Variant.RSLORA, 4 / math.sqrt(2)),
        ({"dora": True}, Variant.DORA, 2.0),
        ({"dora": True, "rslora": True}, Variant.DORA, 4 / math.sqrt(2)),
        ({"lora_bias": True}, Variant.LORA, 2.0),
    ],
)
def test_variant_and_scaling_follow_the_configuration(
    options: dict[str, bool], variant: Variant, scaling: float
) -> None:
    found = derive(alpha=4, **options)

    assert found.variant is variant
    assert all(module.scaling == scaling for module in found.modules)
    assert all(module.magnitude == ("dora" in options) for module in found.modules)
    assert all(module.lora_bias == ("lora_bias" in options) for module in found.modules)


def test_alpha_follows_its_pattern_while_the_whole_keeps_the_plain_one() -> None:
    found = derive(alpha=4, alpha_pattern={"q_proj": 1})

    assert found.alpha == 4
    assert {module.name: module.scaling for module in found.modules} == {Q: 0.5, DOWN: 2.0}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_type_of_the_tensors_is_told(dtype: str) -> None:
    assert derive(dtype=dtype).dtype == dtype


def test_mixed_types_are_told_as_the_one_that_holds_all_values() -> None:
    config, _ = adapter_bytes()
    raw = encode(tensors(MODULES), "F16")
    name = next(iter(raw))
    raw[name] = ("BF16", raw[name][1], raw[name][2])

    assert facts(config, safetensors_bytes(raw)).dtype == "F32"


def test_targets_given_as_a_regular_expression_follow_from_the_tensor_names() -> None:
    assert len(derive(config={"target_modules": r".*\.(q_proj|down_proj)"}).modules) == 2


def test_the_output_head_is_a_module_like_any_other() -> None:
    assert derive({"lm_head": (8, 32, 2)}).modules[0].name == "lm_head"


def test_names_of_tensors_are_those_in_the_file() -> None:
    a, b, bias, magnitude = tensor_names(Q)

    assert set(tensors({Q: (8, 8, 2)}, dora=True, lora_bias=True)) == {a, b, bias, magnitude}


@pytest.mark.parametrize("part", ["magnitude", "bias"])
def test_a_vector_of_another_length_than_the_output_is_refused(part: str) -> None:
    options = {"dora": True} if part == "magnitude" else {"lora_bias": True}
    config, _ = adapter_bytes({Q: (8, 6, 2)}, **options)
    raw = encode(tensors({Q: (8, 6, 2)}, **options))
    raw[tensor_names(Q)[3 if part == "magnitude" else 2]] = f32(8)

    with pytest.raises(InvalidAdapter, match=r"of \[6\], got \[8\]"):
        facts(config, safetensors_bytes(raw))


@pytest.mark.parametrize("options", [{"dora": True}, {"lora_bias": True}])
def test_every_module_needs_its_vector(options: dict[str, bool]) -> None:
    config, _ = adapter_bytes(**options)
    raw = encode(tensors(MODULES, **options))
    del raw[next(name for name in raw if name.endswith(("vector", "bias")))]

    with pytest.raises(InvalidAdapter, match="by the configuration"):
        facts(config, safetensors_bytes(raw))


def test_a_rank_that_the_pattern_contradicts_is_refused() -> None:
    with pytest.raises(InvalidAdapter, match="expected rank 4 by the configuration, got A 2 and B 2"):
        derive(rank_pattern={"q_proj": 4})
