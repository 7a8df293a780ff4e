"""adapter_config.json: understood, neutral or refused by name, and nothing else."""

import json

import pytest

from lorry.errors import InvalidAdapter, UnsupportedAdapter
from lorry.format.config import AdapterConfig, parse_config
from tests.support.adapters import json_bytes, peft_config
from tests.support.hostile import REGEX_BOMB

MODULE = "model.layers.10.self_attn.q_proj"


def parse(**fields: object) -> AdapterConfig:
    return parse_config(json_bytes(peft_config(**fields)))


def parse_text(text: str) -> AdapterConfig:
    return parse_config(text.encode())


def test_rank_alpha_and_base_name_are_read() -> None:
    config = parse(r=8, lora_alpha=16, base_model_name_or_path="some/base")

    assert (config.rank, config.alpha, config.base_name) == (8, 16.0, "some/base")


def test_scaling_is_alpha_over_rank() -> None:
    assert parse(r=8, lora_alpha=32).scaling_of(MODULE) == 4


def test_rslora_scaling_is_alpha_over_the_root_of_the_rank() -> None:
    assert parse(r=16, lora_alpha=32, use_rslora=True).scaling_of(MODULE) == 8


def test_scaling_follows_both_patterns() -> None:
    config = parse(r=8, lora_alpha=32, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 2})

    assert config.rank_of(MODULE) == 4
    assert config.scaling_of(MODULE) == 0.5


@pytest.mark.parametrize("key", ["q_proj", "self_attn.q_proj", "layers.10.self_attn.q_proj", MODULE, "^" + MODULE])
def test_a_pattern_key_matches_equality_and_suffixes_behind_a_dot(key: str) -> None:
    assert parse(rank_pattern={key: 7}).rank_of(MODULE) == 7


@pytest.mark.parametrize(
    "key", ["proj", "0.self_attn.q_proj", "self_attn", "model.layers.1.self_attn.q_proj", "^q_proj"]
)
def test_a_pattern_key_does_not_match_a_part_of_a_name(key: str) -> None:
    assert parse(r=2, rank_pattern={key: 7}).rank_of(MODULE) == 2


@pytest.mark.parametrize("order", [["q_proj", MODULE], [MODULE, "q_proj"]])
def test_of_several_matching_pattern_keys_the_first_in_the_file_wins(order: list[str]) -> None:
    fields = peft_config(rank_pattern={key: place + 3 for place, key in enumerate(order)})

    assert parse_text(json.dumps(fields)).rank_of(MODULE) == 3


def test_a_list_of_targets_names_modules_by_equality_or_suffix() -> None:
    config = parse(target_modules=["q_proj", "lm_head"])

    assert config.is_target(MODULE)
    assert config.is_target("lm_head")
    assert not config.is_target("model.layers.0.self_attn.xq_proj")
    assert not config.is_target("model.lm_head.x")


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", REGEX_BOMB, None])
def test_targets_that_are_no_list_leave_it_to_the_tensor_names(targets: str | None) -> None:
    assert parse(target_modules=targets).is_target("anything.at.all")


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "orthogonal", "eva", "mica"])
def test_an_initialisation_that_leaves_the_base_alone_is_accepted(init: object) -> None:
    parse(init_lora_weights=init)


def test_a_base_changing_initialisation_is_refused_with_the_way_to_convert_it() -> None:
    with pytest.raises(UnsupportedAdapter, match="path_initial_model_for_weight_conversion"):
        parse(init_lora_weights="pissa_niter_4")


@pytest.mark.parametrize(
    "fields",
    [
        {"layers_to_transform": [0, 1], "layers_pattern": ["layers"]},
        {"layers_to_transform": 3},
        {"exclude_modules": ["lm_head"]},
        {"eva_config": {"rho": 2.0, "tau": 0.99}},
        {"corda_config": {"corda_method": "ipm"}},
        {"auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama"}},
        {"revision": "main"},
        {"task_type": "SEQ_CLS"},
        {"runtime_config": {"ephemeral_gpu_offload": False}},
    ],
)
def test_fields_of_training_are_neutral(fields: dict[str, object]) -> None:
    assert parse(**fields).canonical_json == parse().canonical_json


@pytest.mark.parametrize("value", [None, False, [], {}, ""])
def test_an_unknown_field_that_says_nothing_is_passed_over(value: object) -> None:
    parse(field_of_the_future=value)


@pytest.mark.parametrize("value", [True, 0, 1.5, "x", [0], {"a": None}])
def test_an_unknown_field_that_says_something_is_refused_by_name(value: object) -> None:
    with pytest.raises(UnsupportedAdapter, match="field_of_the_future"):
        parse(field_of_the_future=value)


def test_the_canonical_form_drops_what_is_neutral_and_sorts_keys_and_targets() -> None:
    config = parse(target_modules=["v_proj", "q_proj"], lora_dropout=0.1, lora_alpha=4, use_rslora=True)

    assert config.canonical_json == (
        '{"lora_alpha":4,"peft_type":"LORA","r":2,"target_modules":["q_proj","v_proj"],"use_rslora":true}'
    )


def test_dora_and_lora_bias_exclude_each_other() -> None:
    with pytest.raises(InvalidAdapter, match="exclude each other"):
        parse(use_dora=True, lora_bias=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"peft_type": "LORA", "peft_type": "LORA"}', "duplicate key"),
        ('{"eva_config": {"a": 1, "a": 2}}', "duplicate key"),
        ('{"lora_dropout": NaN}', "NaN"),
        ('{"lora_dropout": -Infinity}', "Infinity"),
        ('{"lora_dropout": 1e400}', "out of range"),
        ('{"revision": "\\udc00"}', "surrogate"),
        ('{"eva_config": [[[[[[[]]]]]]]}', "nesting of at most 6"),
        ('{"eva_config": [' + "0," * 20_000 + "0]}", "at most 16384 values"),
        ('"LORA"', "expected a JSON object"),
        ("\ufeff{}", "strict JSON"),
        ('{"a": "', "strict JSON"),
    ],
)
def test_json_that_readers_disagree_about_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidAdapter, match=reason):
        parse_text(text)


def test_brackets_inside_of_strings_are_not_nesting() -> None:
    assert parse(target_modules="[[[[[[[[[[" + r"\"\\" + "{{{{{{{{").targets is None


def test_an_error_shows_the_beginning_of_a_long_value_alone() -> None:
    with pytest.raises(UnsupportedAdapter) as caught:
        parse(target_parameters=["x" * 10_000])

    assert len(str(caught.value)) < 300
