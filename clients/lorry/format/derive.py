"""From configuration and tensor index to facts: what the adapter is, if it is one at all.

Owns the rule that every tensor has a place and every place its tensor, and what LoRA's own matrices
look like. Does not read weights and does not know any base.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lorry.errors import InvalidAdapter, UnsupportedAdapter
from lorry.format.config import AdapterConfig, parse_config
from lorry.format.experts import adapted_experts
from lorry.format.facts import AdaptedModule, AdapterFacts, Variant
from lorry.format.header import TensorEntry, TensorIndex, matrix, parse_header
from lorry.format.names import Part, place
from lorry.format.replaced import Parts, base_copies, saved_modules, trained_biases, trained_tokens

# What PEFT writes of the base beside LoRA on the same module.
_BESIDE = frozenset({Part.BASE_WEIGHT, Part.BASE_BIAS})
_LINEAR = frozenset({Part.A, Part.B, Part.B_BIAS, Part.MAGNITUDE}) | _BESIDE
_EMBEDDING = frozenset({Part.EMBEDDING_A, Part.EMBEDDING_B, Part.MAGNITUDE, Part.BASE_WEIGHT})
_TOKENS = frozenset({Part.TOKENS, Part.RESIZED})
_EXPERTS = frozenset({Part.A, Part.B, Part.INNER_A, Part.INNER_B})
_REPLACED = frozenset(Part) - _LINEAR - _EMBEDDING - _TOKENS - _EXPERTS
# The ways to change a module: PEFT takes one for each.
_WAYS = (_LINEAR, _EMBEDDING, _TOKENS, _EXPERTS, _REPLACED)


def outline(config: bytes, header: bytes, weights_size: int) -> AdapterFacts:
    """The facts of an adapter whose weights lie elsewhere.

    config: adapter_config.json. header: the first `header_length` bytes of a weights file of
    `weights_size` bytes. Raises InvalidAdapter, UnsupportedAdapter.
    """
    return derive_facts(parse_config(config), parse_header(header, weights_size))


def derive_facts(config: AdapterConfig, index: TensorIndex) -> AdapterFacts:
    """The facts that the bytes bear out. Raises InvalidAdapter, UnsupportedAdapter."""
    found = _by_module(index)
    experts = adapted_experts(found, config)
    modules = _modules(found, config)
    if not (modules or experts):
        raise InvalidAdapter("adapter_model.safetensors: expected LoRA tensors, got none")
    saved = saved_modules(found, config.extras)
    facts = AdapterFacts(
        variant=_variant(config),
        rank=max([each.rank for each in modules] + [each.rank for each in experts]),
        alpha=config.alpha,
        base_name=config.base_name,
        config_json=config.canonical_json,
        dtype=_dtype(entry.dtype for entry in index.tensors),
        modules=modules,
        saved=saved,
        tokens=trained_tokens(found, config.extras),
        biases=trained_biases(found, saved, modules, config.extras),
        invocation=config.extras.invocation,
        bias=config.extras.bias,
        copies=base_copies(found, modules),
        experts=experts,
    )
    _check_invocation(facts)
    return facts


def _variant(config: AdapterConfig) -> Variant:
    # Both may be set: then it is a DoRA whose scaling is rsLoRA's, and the scaling is in the modules.
    if config.dora:
        return Variant.DORA
    return Variant.RSLORA if config.rslora else Variant.LORA


def _dtype(dtypes: Iterable[str]) -> str:
    found = set(dtypes)
    # F32 holds every value of F16 and of BF16.
    return found.pop() if len(found) == 1 else "F32"


def _check_invocation(facts: AdapterFacts) -> None:
    if facts.invocation and any(module.embedding for module in facts.modules):
        raise InvalidAdapter("alora_invocation_tokens exclude LoRA on an embedding, as in PEFT")
    if facts.invocation and (facts.saved or facts.tokens or facts.biases):
        raise UnsupportedAdapter(
            "alora_invocation_tokens: an activated LoRA leaves the tokens before its invocation to the base; with "
            "modules_to_save, trainable_token_indices or bias it would not, and is not served"
        )


def _by_module(index: TensorIndex) -> Mapping[str, Parts]:
    """The tensors of each module, in order of its name."""
    found: dict[str, dict[Part, TensorEntry]] = {}
    for entry in index.tensors:
        module, part = place(entry.name)
        found.setdefault(module, {})[part] = entry
    for module, parts in found.items():
        if not any(parts.keys() <= way for way in _WAYS):
            raise InvalidAdapter(f"{module}: expected one way to change a module, got {', '.join(sorted(parts))}")
    return dict(sorted(found.items()))


def _modules(found: Mapping[str, Parts], config: AdapterConfig) -> tuple[AdaptedModule, ...]:
    embeddings, linears = [], []
    for name, parts in found.items():
        if Part.EMBEDDING_A in parts or Part.EMBEDDING_B in parts:
            embeddings.append(_embedding(name, parts, config))
        elif parts.keys() <= _LINEAR and not config.extras.parameters_of(name):
            linears.append(_linear(name, parts, config))
    # With ensure_weight_tying PEFT gives a tied head the embedding's matrices turned around, and names it nowhere.
    turned = {(other.rank, other.in_features, other.out_features) for other in embeddings if config.extras.tied}
    for module in (*embeddings, *linears):
        if (module.rank, module.out_features, module.in_features) not in turned:
            _check_target(module, config)
    return tuple(sorted((*embeddings, *linears), key=lambda module: module.name))


def _check_target(module: AdaptedModule, config: AdapterConfig) -> None:
    if not config.is_target(module.name):
        raise InvalidAdapter(f"{module.name}: the file has tensors for it, but target_modules does not name it")


def _linear(name: str, parts: Parts, config: AdapterConfig) -> AdaptedModule:
    bias, magnitude = {Part.B_BIAS} if config.lora_bias else set(), {Part.MAGNITUDE} if config.dora else set()
    _check_parts(name, parts, {Part.A, Part.B} | bias | magnitude)
    module = _adapted(name, parts[Part.A], parts[Part.B], config)
    for part in (Part.B_BIAS, Part.MAGNITUDE):
        if part in parts and parts[part].shape != (module.out_features,):
            raise InvalidAdapter(f"{name}: expected {part} of [{module.out_features}], got {list(parts[part].shape)}")
    return module


def _embedding(name: str, parts: Parts, config: AdapterConfig) -> AdaptedModule:
    if config.dora:
        raise UnsupportedAdapter(f"{name}: DoRA on an embedding is not served; leave it out of target_modules")
    if config.lora_bias:
        raise InvalidAdapter(f"{name}: lora_bias excludes LoRA on an embedding, as in PEFT")
    _check_parts(name, parts, {Part.EMBEDDING_A, Part.EMBEDDING_B})
    return _adapted(name, parts[Part.EMBEDDING_A], parts[Part.EMBEDDING_B], config, embedding=True)


def _check_parts(name: str, parts: Parts, expected: set[Part]) -> None:
    if parts.keys() - _BESIDE != expected:
        raise InvalidAdapter(
            f"{name}: expected {', '.join(sorted(expected))} by the configuration, got {', '.join(sorted(parts))}"
        )


def _adapted(
    name: str, a: TensorEntry, b: TensorEntry, config: AdapterConfig, *, embedding: bool = False
) -> AdaptedModule:
    (rank, in_features), (out_features, rank_b) = matrix(a), matrix(b)
    expected = config.rank_of(name)
    if (rank, rank_b) != (expected, expected):
        raise InvalidAdapter(f"{name}: expected rank {expected} by the configuration, got A {rank} and B {rank_b}")
    return AdaptedModule(
        name=name,
        rank=rank,
        scaling=config.scaling_of(name),
        in_features=in_features,
        out_features=out_features,
        lora_bias=config.lora_bias,
        magnitude=config.dora,
        embedding=embedding,
    )
