"""What stock PEFT saves of the kinds beyond LoRA on linear layers passes, with nothing left over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lorry.fingerprint import base_facts
from lorry.format.base import BaseFacts
from lorry.format.bundle import check_bundle
from lorry.format.compatibility import judge
from lorry.format.facts import AdapterFacts, TrainedTokens

pytestmark = [
    # PEFT reads an attribute that this release of transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # Ends of tied models are changed on purpose; what it means is what the tensors say.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
    # PEFT asks for a configuration where a base comes without a path.
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
]

EMBED, HEAD = "model.embed_tokens", "lm_head"
VOCAB = 32


def llama(*, tied: bool = False, vocab: int = VOCAB) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        attention_bias=True,
    )
    return LlamaForCausalLM(config)


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=VOCAB, n_positions=16))


def saved(model: PreTrainedModel, directory: Path, **fields: Any) -> tuple[AdapterFacts, BaseFacts]:
    """What Lorry makes of what PEFT saves, and the base as it was before."""
    base = base_facts(model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "task_type": "CAUSAL_LM"} | fields))
    wrapped.save_pretrained(directory)
    return check_bundle(directory).facts, base


def fits(facts: AdapterFacts, base: BaseFacts) -> bool:
    return all(finding.warning for finding in judge(facts, base, claimed=base))


@pytest.mark.parametrize("ends", ["untied", "tied"])
@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (["lm_head"], [HEAD]),
        (["embed_tokens"], [EMBED]),
        (["embed_tokens", "lm_head"], [HEAD, EMBED]),
        (["norm"], ["model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"]),
        (["mlp"], [f"model.layers.0.mlp.{name}_proj" for name in ("down", "gate", "up")]),
    ],
    ids="+".join,
)
def test_replaced_modules_are_those_that_peft_wraps(
    entries: list[str], names: list[str], ends: str, tmp_path: Path
) -> None:
    facts, base = saved(llama(tied=ends == "tied"), tmp_path, target_modules=["q_proj"], modules_to_save=entries)

    assert [module.name for module in facts.saved] == names
    assert fits(facts, base)


def test_modules_that_are_kept_tied_are_both_written(tmp_path: Path) -> None:
    facts, base = saved(
        llama(tied=True),
        tmp_path,
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens"],
        ensure_weight_tying=True,
    )

    assert [module.name for module in facts.saved] == [HEAD, EMBED]
    assert fits(facts, base)


@pytest.mark.parametrize("ends", ["untied", "tied", "tied and kept so"])
def test_lora_on_an_embedding_comes_with_a_copy_of_the_bases(ends: str, tmp_path: Path) -> None:
    tying = ends == "tied and kept so"
    facts, base = saved(
        llama(tied=ends != "untied"), tmp_path, target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=tying
    )

    embedding = next(module for module in facts.modules if module.embedding)
    assert (embedding.name, embedding.in_features, embedding.out_features) == (EMBED, VOCAB, 16)
    assert facts.copies[-1] == EMBED
    assert (HEAD in {module.name for module in facts.modules}) == tying
    assert fits(facts, base)


@pytest.mark.parametrize("ends", ["untied", "tied"])
@pytest.mark.parametrize(
    ("indices", "untied", "tied"),
    [
        ([5, 3], {EMBED}, {EMBED}),
        ({"embed_tokens": [5, 3]}, {EMBED}, {EMBED}),
        ({"lm_head": [5, 3]}, {HEAD}, {HEAD}),
        ({"embed_tokens": [5, 3], "lm_head": [5, 3]}, {EMBED, HEAD}, {EMBED}),
        ({"embed_tokens": [5, 3], "lm_head": [4, 2]}, {EMBED, HEAD}, {EMBED, HEAD}),
    ],
    ids=["list", "embedding", "head", "same", "different"],
)
def test_trained_tokens_are_of_the_modules_that_peft_wrote(
    indices: object, untied: set[str], tied: set[str], ends: str, tmp_path: Path
) -> None:
    facts, base = saved(
        llama(tied=ends == "tied"), tmp_path, target_modules=["q_proj"], trainable_token_indices=indices
    )

    assert {tokens.name for tokens in facts.tokens} == (tied if ends == "tied" else untied)
    assert all(tokens.features == 16 for tokens in facts.tokens)
    assert fits(facts, base)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_those_that_peft_trains(bias: str, tmp_path: Path) -> None:
    facts, base = saved(llama(), tmp_path, target_modules=["q_proj", "down_proj"], bias=bias)

    layers = ["k", "o", "q", "v"] if bias == "all" else ["q"]
    assert [one.name for one in facts.biases] == [f"model.layers.0.self_attn.{name}_proj" for name in layers]
    assert fits(facts, base)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_a_model_of_conv1d_layers_has_every_kind_too(bias: str, tmp_path: Path) -> None:
    facts, base = saved(
        gpt2(),
        tmp_path,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        bias=bias,
        modules_to_save=["mlp.c_fc"],
        trainable_token_indices={"wte": [1]},
    )

    assert {one.name.rpartition(".")[2] for one in facts.biases} == {
        "none": set(),
        "all": {"c_attn", "c_proj", "ln_1", "ln_2", "ln_f"},
        "lora_only": {"c_attn"},
    }[bias]
    assert [(module.name, dict(module.parameters)) for module in facts.saved] == [
        ("transformer.h.0.mlp.c_fc", {"weight": (16, 64), "bias": (64,)})
    ]
    assert facts.tokens == (TrainedTokens("transformer.wte", (1,), 16),)
    assert fits(facts, base)


def test_an_activated_lora_tells_its_invocation(tmp_path: Path) -> None:
    facts, base = saved(llama(), tmp_path, target_modules=["q_proj"], alora_invocation_tokens=[4, 5])

    assert facts.invocation == (4, 5)
    assert fits(facts, base)


def resize(base: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """A model with eight tokens more than the base that its name means."""
    base.save_pretrained(directory)
    model = LlamaForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(VOCAB + 8)
    return model


RESIZED: dict[str, tuple[dict[str, Any], Callable[[AdapterFacts], bool]]] = {
    "plain": ({}, lambda facts: not any(module.under_tokens for module in facts.saved)),
    "saved": ({"modules_to_save": ["embed_tokens", "lm_head"]}, lambda facts: not facts.tokens),
    "tokens": (
        {"trainable_token_indices": [VOCAB, VOCAB + 1]},
        lambda facts: facts.tokens[-1] == TrainedTokens(EMBED, (VOCAB, VOCAB + 1), 16),
    ),
}


@pytest.mark.parametrize("ends", ["untied", "tied"])
@pytest.mark.parametrize("kind", RESIZED)
def test_a_resized_vocabulary_that_peft_saves_by_itself_fits_the_base_of_before(
    kind: str, ends: str, tmp_path: Path
) -> None:
    fields, holds = RESIZED[kind]
    base = llama(tied=ends == "tied")

    facts, _ = saved(resize(base, tmp_path / "base"), tmp_path / "adapter", target_modules=["q_proj"], **fields)

    assert {module.name: dict(module.parameters)["weight"] for module in facts.saved} == {
        HEAD: (VOCAB + 8, 16),
        EMBED: (VOCAB + 8, 16),
    }
    assert holds(facts)
    assert fits(facts, base_facts(base))
