"""The kinds beyond LoRA on linear layers: what they say of themselves, in facts and in the manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorry.errors import InvalidAdapter
from lorry.format.bundle import check_bundle
from lorry.format.config import parse_config
from lorry.format.derive import outline
from lorry.format.digest import digest_of
from lorry.format.facts import AdaptedExperts, AdapterFacts, SavedModule, TrainedBias, TrainedTokens
from lorry.format.header import header_length
from lorry.format.manifest import build_manifest, manifest_from_json
from lorry.format.names import Part, experts_names, saved_name, tensor_name
from tests.support.adapters import json_bytes, peft_config
from tests.support.tiny_kinds import (
    BIASES,
    DELTA,
    DOWN,
    EMBED,
    EXPERTS,
    HEAD,
    KINDS,
    NORM,
    PREFIX,
    STACKED,
    TARGETS,
    TOKENS,
    Kind,
    Q,
    embedding_lora,
    stacked,
)

HEAD_WEIGHT = {f"{HEAD}.weight": (32, 8)}


def facts(kind: Kind) -> AdapterFacts:
    config, weights = kind.bytes()
    return outline(config, weights[: header_length(weights[:8])], len(weights))


def derive(extra: dict[str, tuple[int, ...]], **config: Any) -> AdapterFacts:
    return facts(Kind(extra, config))


@pytest.mark.parametrize("name", KINDS)
def test_a_sound_adapter_of_each_kind_passes_whole_and_says_what_it_does(name: str, tmp_path: Path) -> None:
    bundle = check_bundle(KINDS[name].write(tmp_path))

    assert bundle.facts.features == KINDS[name].features
    manifest = build_manifest(bundle.files, bundle.facts, digest_of(b"base"))
    assert manifest.features == KINDS[name].features
    assert manifest_from_json(manifest.canonical_json()) == manifest


@pytest.mark.parametrize(
    ("name", "changed"),
    [("head", HEAD), ("norm", NORM), ("embedding", EMBED), ("tokens", EMBED), ("bias-all", NORM)],
)
def test_a_manifest_names_every_module_that_is_changed_in_any_way(name: str, changed: str) -> None:
    manifest = build_manifest([], facts(KINDS[name]), digest_of(b"base"))

    assert manifest.target_modules == tuple(sorted({Q, DOWN, changed}))


def test_a_manifest_without_such_features_does_not_mention_them() -> None:
    manifest = build_manifest([], facts(Kind({})), digest_of(b"base"))

    assert b"features" not in manifest.canonical_json()
    assert replace(manifest, features=("alora",)).digest != manifest.digest


def test_a_manifest_with_an_unknown_feature_is_refused() -> None:
    manifest = replace(build_manifest([], facts(Kind({})), digest_of(b"base")), features=("telepathy",))

    with pytest.raises(InvalidAdapter, match="telepathy"):
        manifest_from_json(manifest.canonical_json())


def test_lora_on_an_embedding_has_the_rows_as_its_input() -> None:
    module = next(module for module in facts(KINDS["embedding"]).modules if module.name == EMBED)

    assert module.embedding
    assert (module.in_features, module.out_features, module.rank, module.scaling) == (32, 8, 2, 2.0)


def test_a_copy_of_the_bases_weight_is_told_and_changes_nothing() -> None:
    found = derive({**embedding_lora(), f"{EMBED}.base_layer.weight": (32, 8)}, target_modules=TARGETS)

    assert found.copies == (EMBED,)
    assert found.saved == ()


def test_a_tied_head_may_mirror_the_embeddings_matrices_unnamed() -> None:
    mirrored = {f"{HEAD}.lora_A.weight": (2, 8), f"{HEAD}.lora_B.weight": (32, 2)}

    found = derive({**embedding_lora(), **mirrored}, target_modules=TARGETS, ensure_weight_tying=True)

    assert [module.name for module in found.modules if module.name in (EMBED, HEAD)] == [HEAD, EMBED]


@pytest.mark.parametrize(
    ("entries", "tensors", "saved"),
    [
        (["lm_head"], {**HEAD_WEIGHT, f"{HEAD}.bias": (32,)}, [(HEAD, {"weight": (32, 8), "bias": (32,)})]),
        (["head"], HEAD_WEIGHT, [(HEAD, {"weight": (32, 8)})]),
        (["norm"], {f"{NORM}.weight": (8,)}, [(NORM, {"weight": (8,)})]),
        (["score", "classifier"], {"score.weight": (2, 8)}, [("score", {"weight": (2, 8)})]),
        (
            ["mlp"],
            {"model.layers.1.mlp.up.weight": (16, 8), "model.layers.1.mlp.down.bias": (8,)},
            [("model.layers.1.mlp.down", {"bias": (8,)}), ("model.layers.1.mlp.up", {"weight": (16, 8)})],
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) and isinstance(value[0], str) else None,
)
def test_replaced_modules_are_named_by_the_end_of_their_path_or_of_what_they_lie_in(
    entries: list[str], tensors: dict[str, tuple[int, ...]], saved: list[tuple[str, dict[str, tuple[int, ...]]]]
) -> None:
    found = derive(tensors, modules_to_save=entries)

    assert [(module.name, dict(module.parameters)) for module in found.saved] == saved
    assert found.biases == ()


def test_what_peft_writes_twice_of_a_replaced_and_resized_module_is_passed_over() -> None:
    again = {f"{HEAD}.original_module.weight": (32, 8), f"{HEAD}.modules_to_save.weight": (32, 8)}

    found = derive({**HEAD_WEIGHT, **again}, modules_to_save=["lm_head"])

    assert found.saved == (SavedModule(HEAD, (("weight", (32, 8)),)),)


def test_a_resized_vocabulary_is_two_replaced_modules_that_nobody_named() -> None:
    found = facts(KINDS["resized"])

    assert [(module.name, dict(module.parameters)["weight"]) for module in found.saved] == [
        (HEAD, (40, 8)),
        (EMBED, (40, 8)),
    ]


def test_a_resized_embedding_may_lie_under_trained_tokens() -> None:
    found = facts(KINDS["tokens-resized"])

    assert [saved_name(module, "weight") for module in found.saved] == [
        f"{PREFIX}{HEAD}.token_adapter.base_layer.weight",
        f"{PREFIX}{EMBED}.token_adapter.base_layer.weight",
    ]
    assert found.tokens == (TrainedTokens(EMBED, (38, 39), 8),)


@pytest.mark.parametrize("ids", [[38, 39], {"embed_tokens": [38, 39]}])
def test_a_tied_and_resized_head_repeats_the_tokens_of_the_embedding(ids: object) -> None:
    extra = {**KINDS["tokens-resized"].extra, f"{HEAD}.{DELTA}": (2, 8)}

    found = derive(extra, trainable_token_indices=ids)

    assert found.tokens == (TrainedTokens(HEAD, (38, 39), 8), TrainedTokens(EMBED, (38, 39), 8))


def test_tokens_are_in_the_order_of_their_rows() -> None:
    assert facts(KINDS["tokens"]).tokens == (TrainedTokens(EMBED, (7, 3), 8),)
    assert facts(KINDS["tokens-by-name"]).tokens == (TrainedTokens(EMBED, (7, 3), 8),)


def test_embedding_and_head_may_have_tokens_of_their_own() -> None:
    found = derive(
        {**TOKENS, f"{HEAD}.{DELTA}": (1, 8)}, trainable_token_indices={"embed_tokens": [7, 3], "lm_head": [1]}
    )

    assert [(tokens.name, tokens.indices) for tokens in found.tokens] == [(HEAD, (1,)), (EMBED, (7, 3))]


def test_the_tokens_of_a_tied_head_are_the_embeddings() -> None:
    found = derive(dict(TOKENS), trainable_token_indices={"embed_tokens": [7, 3], "lm_head": [7, 3]})

    assert [tokens.name for tokens in found.tokens] == [EMBED]


def test_biases_are_told_wherever_they_lie() -> None:
    found = facts(KINDS["bias-all"])

    assert (found.bias, found.biases) == ("all", (TrainedBias(Q, 8), TrainedBias(NORM, 8)))
    assert derive(dict(BIASES), bias="lora_only").biases == (TrainedBias(Q, 8),)


def test_a_base_without_biases_leaves_nothing_to_train() -> None:
    assert derive({}, bias="all").biases == ()


def test_an_invocation_is_told_and_an_empty_one_is_none() -> None:
    assert facts(KINDS["alora"]).invocation == (5, 6)
    assert derive({}, alora_invocation_tokens=[]).invocation == ()


def test_of_experts_the_inner_tensors_are_of_the_parameter_that_a_module_has_first() -> None:
    gate_up, down = facts(KINDS["experts"]).experts

    assert gate_up == AdaptedExperts(EXPERTS, "gate_up_proj", 3, 2, 2.0, 8, 12, inner=True)
    assert down == AdaptedExperts(EXPERTS, "down_proj", 3, 2, 2.0, 6, 8)
    assert {name for one in (gate_up, down) for name in experts_names(one)} == {PREFIX + name for name in stacked()}
    assert {gate_up.path, down.path} < set(facts(KINDS["experts"]).changed)


@pytest.mark.parametrize(("named", "parts"), [(STACKED[:1], "base_layer."), (STACKED[1:], "")], ids=str)
def test_one_parameter_of_experts_has_no_wrapper_around_it(named: list[str], parts: str) -> None:
    shapes = {
        name.replace("base_layer.", ""): shape for name, shape in stacked().items() if f"{EXPERTS}.{parts}lora" in name
    }

    (found,) = derive(shapes, target_parameters=named).experts

    assert (found.path.endswith(named[0]), found.inner, found.experts) == (True, False, 3)


@pytest.mark.parametrize("entry", ["{}", "experts.{}", "mlp.experts.{}", "layers.1.mlp.experts.{}", EXPERTS + ".{}"])
def test_parameters_are_named_by_their_path_or_the_end_of_it(entry: str) -> None:
    names = [entry.format(name) for name in ("down_proj", "gate_up_proj")]

    assert [one.path for one in derive(dict(stacked()), target_parameters=names).experts] == [
        f"{EXPERTS}.gate_up_proj",
        f"{EXPERTS}.down_proj",
    ]


def test_ranks_and_alphas_of_experts_follow_patterns_of_their_parameters_paths() -> None:
    shapes = {
        **stacked(),
        f"{EXPERTS}.base_layer.lora_A.weight": (12, 8),
        f"{EXPERTS}.base_layer.lora_B.weight": (12, 12),
    }
    # As PEFT writes it where it makes one parameter of two targets.
    fused = r".*\.gate_up_proj"

    gate_up, down = derive(
        shapes, target_parameters=STACKED, rank_pattern={fused: 4}, alpha_pattern={fused: 6, "experts.down_proj": 3}
    ).experts

    assert (gate_up.rank, gate_up.scaling, gate_up.experts) == (4, 1.5, 3)
    assert (down.rank, down.scaling, down.experts) == (2, 1.5, 3)


@pytest.mark.parametrize(
    ("fields", "canonical"),
    [
        ({"bias": "none", "modules_to_save": [], "trainable_token_indices": {}}, ""),
        ({"ensure_weight_tying": True}, ""),
        ({"bias": "all"}, '"bias":"all"'),
        ({"modules_to_save": ["norm", "lm_head"]}, '"modules_to_save":["lm_head","norm"]'),
        ({"trainable_token_indices": [9, 2]}, '"trainable_token_indices":[9,2]'),
        ({"alora_invocation_tokens": [9, 2]}, '"alora_invocation_tokens":[9,2]'),
        (
            {"target_parameters": ["up.gate_up_proj", "down_proj"]},
            '"target_parameters":["down_proj","up.gate_up_proj"]',
        ),
    ],
    ids=str,
)
def test_the_canonical_form_has_what_means_something(fields: dict[str, object], canonical: str) -> None:
    plain = parse_config(json_bytes(peft_config())).canonical_json
    found = parse_config(json_bytes(peft_config(**fields))).canonical_json

    assert canonical in found
    assert (found == plain) == (not canonical)


def test_names_of_tensors_are_those_in_the_file() -> None:
    assert tensor_name(EMBED, Part.TOKENS) == PREFIX + next(iter(TOKENS))
    assert {tensor_name(EMBED, Part.EMBEDDING_A), tensor_name(EMBED, Part.EMBEDDING_B)} == {
        PREFIX + name for name in embedding_lora()
    }
