"""What an enemy could make of the kinds beyond LoRA on linear layers: cases of `tests.support.hostile`.

Owns the cases alone: WRONG must end in InvalidAdapter, REFUSED in UnsupportedAdapter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tiny_kinds import (
    BIASES,
    DELTA,
    EMBED,
    EXPERTS,
    HEAD,
    NORM,
    STACKED,
    TARGETS,
    TOKENS,
    VOCAB,
    Kind,
    Q,
    Shapes,
    embedding_lora,
    stacked,
)

Write = Callable[[Path], object]
NAN = float("nan")
# Tokens of the base on which the corpus is tried: what fits it is refused for its values alone.
THEIRS = 131
_HEAD_WEIGHT = {f"{HEAD}.weight": (VOCAB, 8)}


def _with(extra: Shapes, fill: float = 0.5, **config: Any) -> Write:
    return lambda directory: Kind(extra, config).write(directory, fill)


def _saved(extra: Shapes, saved: object = ("lm_head",), **options: Any) -> Write:
    return _with(extra, modules_to_save=list(saved) if isinstance(saved, tuple) else saved, **options)


def _tokens(ids: object, extra: Shapes = TOKENS, **options: Any) -> Write:
    return _with(extra, trainable_token_indices=ids, **options)


def _embedding(extra: Shapes, **config: Any) -> Write:
    return _with(extra, **{"target_modules": TARGETS} | config)


def _experts(extra: Shapes, named: object = STACKED, **config: Any) -> Write:
    return _with(extra, target_parameters=named, **config)


def _without(*parts: str) -> Shapes:
    return {name: shape for name, shape in stacked().items() if name.removeprefix(f"{EXPERTS}.") not in parts}


def _swapped() -> Shapes:
    inner = f"{EXPERTS}.base_layer."
    shapes = stacked()
    return {
        name.replace(inner, f"{EXPERTS}.") if inner in name else name.replace(f"{EXPERTS}.", inner): shape
        for name, shape in shapes.items()
    }


_SAVED = {
    "saved-but-another-one-named": _saved({f"{NORM}.weight": (8,)}),
    "saved-without-a-tensor": _saved({}),
    "saved-one-of-two": _saved(_HEAD_WEIGHT, ("lm_head", "norm")),
    "saved-bias-alone-unasked": _with({f"{NORM}.bias": (8,)}),
    "saved-in-three-dimensions": _saved({f"{HEAD}.weight": (4, 8, 8)}),
    "saved-empty": _saved({f"{HEAD}.weight": (0, 8)}),
    "saved-scalar": _saved({f"{HEAD}.weight": ()}),
    "saved-bias-a-matrix": _saved({**_HEAD_WEIGHT, f"{HEAD}.bias": (VOCAB, 8)}),
    "saved-and-lora": _saved({**_HEAD_WEIGHT, f"{HEAD}.lora_A.weight": (2, 8), f"{HEAD}.lora_B.weight": (VOCAB, 2)}),
    "saved-buffer": _saved({**_HEAD_WEIGHT, f"{HEAD}.running_mean": (8,)}),
    "saved-for-another-adapter": _saved({f"{HEAD}.modules_to_save.victim.weight": (VOCAB, 8)}),
    "saved-original-alone": _saved({f"{HEAD}.original_module.weight": (VOCAB, 8)}),
    "saved-original-of-another-shape": _saved({**_HEAD_WEIGHT, f"{HEAD}.original_module.weight": (VOCAB, 9)}),
    "saved-original-of-a-linear": _with({f"{Q}.original_module.weight": (8, 8)}),
    "saved-nan": _saved({f"{HEAD}.weight": (THEIRS, 8)}, fill=NAN),
    "saved-name-empty": _saved(_HEAD_WEIGHT, ("",)),
    "saved-name-a-bomb": _saved(_HEAD_WEIGHT, ("(a+)+" * 6 + "$",)),
    "saved-name-a-number": _saved(_HEAD_WEIGHT, (7,)),
    "saved-names-a-text": _saved(_HEAD_WEIGHT, "lm_head"),
    "saved-names-without-end": _saved(_HEAD_WEIGHT, tuple(f"m{i}" for i in range(5_000))),
}
_TRAINED = {
    "tokens-twice": _tokens([3, 3]),
    "tokens-negative": _tokens([3, -1]),
    "tokens-huge": _tokens([3, 1 << 40]),
    "tokens-boolean": _tokens([3, True]),
    "tokens-fractional": _tokens([3, 4.0]),
    "tokens-text": _tokens("34"),
    "tokens-number": _tokens(3),
    "tokens-fewer-rows-than-ids": _tokens([3, 4, 5]),
    "tokens-more-rows-than-ids": _tokens([3]),
    "tokens-without-a-tensor": _tokens([3, 4], {}),
    "tokens-unasked": _with(TOKENS),
    "tokens-of-two-embeddings-for-one": _tokens([3, 4], {**TOKENS, f"{HEAD}.{DELTA}": (2, 8)}),
    "tokens-of-an-embedding-unnamed": _tokens({"wte": [3, 4]}),
    "tokens-one-of-two": _tokens({"embed_tokens": [3, 4], "lm_head": [5, 6]}),
    "tokens-named-twice": _tokens({"embed_tokens": [3, 4], "tokens": [5, 6]}),
    "tokens-name-a-bomb": _tokens({"(a+)+$": [3, 4]}),
    "tokens-name-empty": _tokens({"": [3, 4]}),
    "tokens-by-name-no-list": _tokens({"embed_tokens": 3}),
    "tokens-by-name-none": _tokens({"embed_tokens": []}),
    "tokens-a-vector": _tokens([3, 4], {f"{EMBED}.{DELTA}": (2,)}),
    "tokens-nan": _tokens([3, 4], fill=NAN),
    "tokens-and-saved": _tokens([3, 4], {**TOKENS, f"{EMBED}.weight": (VOCAB, 8)}),
    "tokens-and-lora": _embedding({**TOKENS, **embedding_lora()}, trainable_token_indices=[3, 4]),
    "resized-without-tokens": _with({f"{EMBED}.token_adapter.base_layer.weight": (40, 8)}),
    "resized-no-end-of-the-model": _tokens([3, 4], {**TOKENS, f"{NORM}.token_adapter.base_layer.weight": (40, 8)}),
}
_OTHERS = {
    "embedding-a-without-b": _embedding({f"{EMBED}.lora_embedding_A": (2, VOCAB)}),
    "embedding-b-without-a": _embedding({f"{EMBED}.lora_embedding_B": (8, 2)}),
    "embedding-of-another-rank": _embedding(embedding_lora(rank=3)),
    "embedding-no-target": _with(embedding_lora()),
    "embedding-and-linear": _embedding({**embedding_lora(), f"{EMBED}.lora_A.weight": (2, VOCAB)}),
    "embedding-nan": _embedding(embedding_lora(THEIRS), fill=NAN),
    "embedding-copy-of-another-shape": _embedding({**embedding_lora(), f"{EMBED}.base_layer.weight": (VOCAB, 9)}),
    "copy-without-lora": _with({f"{HEAD}.base_layer.weight": (VOCAB, 8)}),
    "copy-of-a-linear-turned-around": _with({"model.layers.0.mlp.down_proj.base_layer.weight": (16, 8)}),
    "tied-head-that-mirrors-nothing": _embedding(
        {**embedding_lora(), f"{HEAD}.lora_A.weight": (2, 8), f"{HEAD}.lora_B.weight": (VOCAB + 1, 2)},
        ensure_weight_tying=True,
    ),
    "tied-a-text": _with({}, ensure_weight_tying="yes"),
    "bias-of-another-word": _with(BIASES, bias="some"),
    "bias-a-list": _with(BIASES, bias=["all"]),
    "bias-unasked": _with(BIASES),
    "bias-of-another-module": _with({f"{NORM}.bias": (8,)}, bias="lora_only"),
    "bias-outside-of-its-layer": _with({f"{Q}.bias": (8,)}, bias="all"),
    "bias-a-matrix": _with({f"{Q}.base_layer.bias": (8, 1)}, bias="all"),
    "bias-of-another-width": _with({f"{Q}.base_layer.bias": (9,)}, bias="lora_only"),
    "bias-without-lora": _with({f"{NORM}.base_layer.bias": (8,)}, bias="all"),
    "bias-nan": _with(BIASES, bias="all", fill=NAN),
    "invocation-text": _with({}, alora_invocation_tokens="56"),
    "invocation-number": _with({}, alora_invocation_tokens=5),
    "invocation-negative": _with({}, alora_invocation_tokens=[5, -6]),
    "invocation-boolean": _with({}, alora_invocation_tokens=[True]),
    "invocation-nested": _with({}, alora_invocation_tokens=[[5]]),
    "invocation-endless": _with({}, alora_invocation_tokens=list(range(5_000))),
    "invocation-and-embedding": _embedding(embedding_lora(), alora_invocation_tokens=[5]),
    "invocation-and-dora": _with({}, alora_invocation_tokens=[5], use_dora=True),
    "embedding-and-lora-bias": _embedding(embedding_lora(), lora_bias=True),
}
_OUTER = ("lora_A.weight", "lora_B.weight")
_INNER = tuple(f"base_layer.{part}" for part in _OUTER)
_STACKED = {
    "experts-without-b": _experts(_without(_OUTER[1])),
    "experts-inner-without-a": _experts(_without(_INNER[0])),
    "experts-one-of-two": _experts(_without(*_INNER)),
    "experts-inner-alone": _experts(_without(*_OUTER)),
    "experts-two-where-one-is-named": _experts(stacked(), STACKED[:1]),
    "experts-both-names-swapped": _experts(_swapped()),
    "experts-rank-that-does-not-divide": _experts({**stacked(), f"{EXPERTS}.lora_A.weight": (7, 6)}),
    "experts-of-a-and-b-differ": _experts({**stacked(), f"{EXPERTS}.lora_B.weight": (8, 8)}),
    "experts-more-of-one-than-of-the-other": _experts(
        {**stacked(), f"{EXPERTS}.lora_A.weight": (8, 6), f"{EXPERTS}.lora_B.weight": (8, 8)}
    ),
    "experts-gate-not-as-wide-as-up": _experts({**stacked(), f"{EXPERTS}.base_layer.lora_B.weight": (13, 6)}),
    "experts-a-vector": _experts({**stacked(), f"{EXPERTS}.lora_A.weight": (6,)}),
    "experts-by-matrices-of-three-dimensions": _experts({**stacked(), f"{EXPERTS}.lora_A.weight": (3, 2, 6)}),
    "experts-empty": _experts({**stacked(), f"{EXPERTS}.lora_A.weight": (0, 6), f"{EXPERTS}.lora_B.weight": (8, 0)}),
    "experts-unasked": _with(stacked()),
    "experts-unasked-one": _with(_without(*_INNER)),
    "experts-of-a-module-of-another-name": _experts({n.replace("experts", "mixed"): s for n, s in stacked().items()}),
    "experts-named-and-none-there": _experts({}),
    "experts-of-a-layer-named-and-not-there": _experts(stacked(), [*STACKED, "layers.7.mlp.experts.down_proj"]),
    "experts-that-are-a-target-too": _experts(stacked(), target_modules=["q_proj", "down_proj", "experts"]),
    "experts-with-a-magnitude": _experts({**stacked(), f"{EXPERTS}.lora_magnitude_vector": (8,)}),
    "experts-with-a-weight": _experts({**stacked(), f"{EXPERTS}.base_layer.weight": (8, 6)}),
    "experts-one-with-a-weight": _experts({**_without(*_INNER), f"{EXPERTS}.base_layer.weight": (8, 6)}, STACKED[1:]),
    "experts-three-wrappers-deep": _experts({**stacked(), f"{EXPERTS}.base_layer.base_layer.lora_A.weight": (6, 8)}),
    "experts-name-a-bomb": _experts(stacked(), ["(a+)+$.down_proj"]),
    "experts-name-a-number": _experts(stacked(), [7]),
    "experts-names-a-text": _experts(stacked(), "mlp.experts.down_proj"),
    "experts-and-dora": _experts(stacked(), use_dora=True),
    "experts-and-lora-bias": _experts(stacked(), lora_bias=True),
    "experts-and-fan-in-fan-out": _experts(stacked(), fan_in_fan_out=True),
    "experts-and-invocation": _experts(stacked(), alora_invocation_tokens=[5]),
}
WRONG: dict[str, Write] = {**_SAVED, **_TRAINED, **_OTHERS, **_STACKED}
REFUSED: dict[str, Write] = {
    "parameters-of-a-router": _experts(stacked(), ["mlp.gate.weight"]),
    "embedding-and-dora": _embedding(embedding_lora(), use_dora=True),
    "invocation-and-saved": _saved(_HEAD_WEIGHT, alora_invocation_tokens=[5]),
    "invocation-and-tokens": _tokens([3, 4], alora_invocation_tokens=[5]),
    "invocation-and-bias": _with(BIASES, bias="all", alora_invocation_tokens=[5]),
}
