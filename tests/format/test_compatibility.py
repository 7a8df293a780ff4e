"""The verdict: every reason, and what becomes of it."""

from dataclasses import replace

import pytest

from lorry.errors import IncompatibleAdapter
from lorry.format.base import BaseFacts
from lorry.format.compatibility import CarryOver, judge, refuse
from lorry.format.derive import outline
from lorry.format.facts import AdapterFacts
from lorry.format.findings import Code, Finding
from lorry.format.header import header_length
from tests.support.adapters import MODULES, Modules, adapter_bytes, base_for

Q = "model.layers.0.self_attn.q_proj"
BASE = base_for()


def facts(modules: Modules = MODULES, **options: object) -> AdapterFacts:
    config, weights = adapter_bytes(modules, **options)
    return outline(config, weights[: header_length(weights[:8])], len(weights))


def codes(adapter: AdapterFacts, base: BaseFacts = BASE, claimed: BaseFacts | None = BASE) -> list[tuple[Code, bool]]:
    return [(finding.code, finding.warning) for finding in judge(adapter, base, claimed=claimed)]


def test_an_adapter_on_its_own_base_has_no_finding() -> None:
    assert codes(facts()) == []


def test_a_module_that_the_base_lacks_is_named() -> None:
    findings = judge(facts({Q: (8, 8, 2), "model.layers.9.mlp.x": (8, 8, 2)}), BASE, claimed=BASE)

    assert [(finding.code, finding.module) for finding in findings] == [(Code.UNKNOWN_MODULE, "model.layers.9.mlp.x")]


@pytest.mark.parametrize("shape", [(9, 8, 2), (8, 9, 2), (16, 4, 2)])
def test_other_features_than_the_bases_are_a_shape_mismatch(shape: tuple[int, int, int]) -> None:
    assert codes(facts({Q: shape})) == [(Code.SHAPE_MISMATCH, False)]


def test_a_rank_above_the_modules_smaller_side_is_a_remark() -> None:
    assert codes(facts({Q: (8, 8, 9)})) == [(Code.RANK_MISMATCH, True)]


def test_an_output_head_of_another_width_is_another_vocabulary() -> None:
    assert codes(facts({"lm_head": (8, 33, 2)})) == [(Code.VOCABULARY_MISMATCH, False)]
    assert codes(facts({"lm_head": (8, 32, 2)})) == []


def test_an_embedding_as_a_target_is_an_unsupported_variant() -> None:
    assert codes(facts({"model.embed_tokens": (32, 8, 2)})) == [(Code.UNSUPPORTED_VARIANT, False)]


def test_a_base_that_nobody_knows_by_that_name_is_a_remark() -> None:
    assert codes(facts(), claimed=None) == [(Code.BASE_UNVERIFIED, True)]
    assert codes(facts(base_name=None), claimed=None) == [(Code.BASE_UNVERIFIED, True)]


def test_a_base_found_by_its_name_alone_is_a_remark() -> None:
    (finding,) = judge(facts(), BASE, claimed=BASE, by_name=True)

    assert (finding.code, finding.warning) == (Code.BASE_UNVERIFIED, True)


def test_another_base_of_the_same_shapes_is_refused() -> None:
    assert codes(facts(), claimed=base_for(seed=1)) == [(Code.BASE_MISMATCH, False)]


def test_another_quantisation_of_the_same_architecture_is_told_as_that() -> None:
    claimed = base_for(seed=1, quantization="int8")

    assert codes(facts(), claimed=claimed) == [(Code.QUANTIZATION_MISMATCH, False)]


def test_another_vocabulary_of_the_base_it_was_trained_on_is_told_besides() -> None:
    claimed = replace(base_for(seed=1), vocab_size=64)

    assert codes(facts(), claimed=claimed) == [(Code.VOCABULARY_MISMATCH, False), (Code.BASE_MISMATCH, False)]


def test_every_reason_is_found_at_once() -> None:
    adapter = facts({Q: (9, 8, 2), "model.layers.7.x": (8, 8, 2), "model.embed_tokens": (32, 8, 2)})

    found = {code for code, _ in codes(adapter, claimed=base_for(seed=1))}

    assert found == {Code.BASE_MISMATCH, Code.SHAPE_MISMATCH, Code.UNKNOWN_MODULE, Code.UNSUPPORTED_VARIANT}


def test_remarks_alone_are_not_refused() -> None:
    refuse([])
    refuse([Finding(Code.BASE_UNVERIFIED, "the name alone", warning=True)])


def test_a_refusal_lists_the_reasons_and_carries_their_codes() -> None:
    findings = [
        Finding(Code.UNKNOWN_MODULE, "no module x", "x"),
        Finding(Code.BASE_UNVERIFIED, "only a remark", warning=True),
        Finding(Code.SHAPE_MISMATCH, "y: 8 -> 8, 9 -> 8", "y"),
    ]

    with pytest.raises(IncompatibleAdapter, match=r"UNKNOWN_MODULE: no module x; SHAPE_MISMATCH: y: 8") as caught:
        refuse(findings)

    assert caught.value.metadata == {"findings": "SHAPE_MISMATCH,UNKNOWN_MODULE"}
    assert "remark" not in str(caught.value)


def test_a_refusal_for_thousands_of_reasons_stays_short() -> None:
    findings = [Finding(Code.UNKNOWN_MODULE, "m" * 1000, "m")] * 4096

    with pytest.raises(IncompatibleAdapter, match="and 4076 more") as caught:
        refuse(findings)

    assert len(str(caught.value)) < 5000


PARENT = base_for(seed=1)


def on_variant(policy: CarryOver, adapter: AdapterFacts | None = None, **parent: object) -> list[tuple[Code, bool]]:
    findings = judge(adapter or facts(), BASE, claimed=replace(PARENT, **parent), carry_over=policy)
    return [(finding.code, finding.warning) for finding in findings]


def test_a_variant_that_allows_it_serves_its_parents_adapters_without_a_word() -> None:
    assert on_variant(CarryOver.ALLOW) == []
    assert on_variant(CarryOver.ALLOW, quantization="int8") == []


def test_a_variant_that_warns_serves_them_with_a_remark() -> None:
    assert on_variant(CarryOver.WARN) == [(Code.BASE_VARIANT, True)]
    assert on_variant(CarryOver.WARN, quantization="int8") == [(Code.BASE_VARIANT, True)]


def test_a_variant_that_refuses_them_is_any_other_base() -> None:
    assert on_variant(CarryOver.REFUSE) == [(Code.BASE_MISMATCH, False)]
    assert on_variant(CarryOver.REFUSE, quantization="int8") == [(Code.QUANTIZATION_MISMATCH, False)]


@pytest.mark.parametrize("policy", [CarryOver.ALLOW, CarryOver.WARN])
def test_no_policy_lets_another_shape_pass(policy: CarryOver) -> None:
    assert (Code.SHAPE_MISMATCH, False) in on_variant(policy, facts({Q: (9, 8, 2)}))
    assert (Code.UNKNOWN_MODULE, False) in on_variant(policy, facts({"model.layers.9.mlp.x": (8, 8, 2)}))
    assert (Code.VOCABULARY_MISMATCH, False) in on_variant(policy, facts({"lm_head": (8, 33, 2)}), vocab_size=33)


@pytest.mark.parametrize("policy", [CarryOver.ALLOW, CarryOver.WARN])
def test_a_vocabulary_that_the_adapter_does_not_touch_is_a_remark_in_a_family(policy: CarryOver) -> None:
    assert (Code.VOCABULARY_MISMATCH, True) in on_variant(policy, vocab_size=33)


def test_a_policy_changes_nothing_on_the_base_that_the_adapter_was_made_for() -> None:
    for policy in CarryOver:
        assert judge(facts(), BASE, claimed=BASE, carry_over=policy) == ()
