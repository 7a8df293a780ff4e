"""From configuration and tensor index to facts: what the adapter is, if it is one at all.

Owns the names that PEFT gives to an adapter's tensors, and the rule that every tensor has a place
and every place its tensor. Does not read weights and does not know any base.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lorry.errors import InvalidAdapter, UnsupportedAdapter
from lorry.format.config import AdapterConfig, parse_config
from lorry.format.facts import AdaptedModule, AdapterFacts, Variant
from lorry.format.header import TensorEntry, TensorIndex, parse_header

_PREFIX = "base_model.model."
_A, _B = "lora_A.weight", "lora_B.weight"
_BIAS, _MAGNITUDE = "lora_B.bias", "lora_magnitude_vector"
_SERVED = (_A, _B, _BIAS, _MAGNITUDE)
# Tensors that stock PEFT writes for kinds of adapter that are not served -> what to do about it.
_REFUSED = {
    "lora_embedding_A": "LoRA on an embedding is not served; leave embeddings out of target_modules",
    "lora_embedding_B": "LoRA on an embedding is not served; leave embeddings out of target_modules",
    "token_adapter.trainable_tokens_delta": "trained tokens are not served",
    "base_layer.weight": "the base's own weight; save again with save_pretrained(..., save_embedding_layers=False)",
}
_PATH = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
# Segments that PEFT puts into a path itself: a module of such a name is another adapter's inside.
_WRAPPERS = frozenset({"base_layer", "base_model", "modules_to_save", "original_module", "token_adapter"})
_MAX_PATH = 500
# How much of a name a message shows.
_SHOWN = 200

_Parts = dict[str, TensorEntry]


def outline(config: bytes, header: bytes, weights_size: int) -> AdapterFacts:
    """The facts of an adapter whose weights lie elsewhere.

    config: adapter_config.json. header: the first `header_length` bytes of a weights file of
    `weights_size` bytes. Raises InvalidAdapter, UnsupportedAdapter.
    """
    return derive_facts(parse_config(config), parse_header(header, weights_size))


def derive_facts(config: AdapterConfig, index: TensorIndex) -> AdapterFacts:
    """The facts that the bytes bear out. Raises InvalidAdapter, UnsupportedAdapter."""
    parts = _by_module(index)
    if not parts:
        raise InvalidAdapter("adapter_model.safetensors: expected LoRA tensors, got none")
    modules = tuple(_module(name, parts[name], config) for name in sorted(parts))
    return AdapterFacts(
        variant=_variant(config),
        rank=max(module.rank for module in modules),
        alpha=config.alpha,
        base_name=config.base_name,
        config_json=config.canonical_json,
        dtype=_dtype(entry.dtype for entry in index.tensors),
        modules=modules,
    )


def tensor_names(module: str) -> tuple[str, str, str, str]:
    """What the tensors of a module are called: A, B, bias of B, magnitude."""
    return (
        f"{_PREFIX}{module}.{_A}",
        f"{_PREFIX}{module}.{_B}",
        f"{_PREFIX}{module}.{_BIAS}",
        f"{_PREFIX}{module}.{_MAGNITUDE}",
    )


def _variant(config: AdapterConfig) -> Variant:
    # Both may be set: then it is a DoRA whose scaling is rsLoRA's, and the scaling is in the modules.
    if config.dora:
        return Variant.DORA
    return Variant.RSLORA if config.rslora else Variant.LORA


def _dtype(dtypes: Iterable[str]) -> str:
    found = set(dtypes)
    # F32 holds every value of F16 and of BF16.
    return found.pop() if len(found) == 1 else "F32"


def _by_module(index: TensorIndex) -> dict[str, _Parts]:
    found: dict[str, _Parts] = {}
    for entry in index.tensors:
        module, part = _place(entry.name)
        found.setdefault(module, {})[part] = entry
    return found


def _place(name: str) -> tuple[str, str]:
    part = next((part for part in (*_SERVED, *_REFUSED) if name.endswith("." + part)), None)
    if part in _REFUSED:
        raise UnsupportedAdapter(f"tensor {name[:_SHOWN]!r}: {_REFUSED[part]}")
    if part is None or not name.startswith(_PREFIX):
        raise InvalidAdapter(
            f"stray tensor {name[:_SHOWN]!r}: expected {_PREFIX}<module>. with one of {', '.join(_SERVED)} behind it"
        )
    module = name[len(_PREFIX) : -len(part) - 1]
    if len(module) > _MAX_PATH or not _PATH.fullmatch(module) or not _plain(module):
        raise InvalidAdapter(f"tensor {name[:_SHOWN]!r}: expected the path of a module of the base in its name")
    return module, part


def _plain(module: str) -> bool:
    return not any(segment in _WRAPPERS or segment.startswith("lora_") for segment in module.split("."))


def _module(name: str, parts: _Parts, config: AdapterConfig) -> AdaptedModule:
    if not config.is_target(name):
        raise InvalidAdapter(f"{name}: the file has tensors for it, but target_modules does not name it")
    _check_parts(name, parts, config)
    rank, in_features = _matrix(parts[_A])
    out_features, rank_b = _matrix(parts[_B])
    expected = config.rank_of(name)
    if (rank, rank_b) != (expected, expected):
        raise InvalidAdapter(f"{name}: expected rank {expected} by the configuration, got A {rank} and B {rank_b}")
    for part in (_BIAS, _MAGNITUDE):
        if part in parts and parts[part].shape != (out_features,):
            raise InvalidAdapter(f"{name}: expected {part} of [{out_features}], got {list(parts[part].shape)}")
    return AdaptedModule(
        name=name,
        rank=rank,
        scaling=config.scaling_of(name),
        in_features=in_features,
        out_features=out_features,
        lora_bias=config.lora_bias,
        magnitude=config.dora,
    )


def _check_parts(name: str, parts: _Parts, config: AdapterConfig) -> None:
    expected = {_A, _B} | ({_BIAS} if config.lora_bias else set()) | ({_MAGNITUDE} if config.dora else set())
    if parts.keys() != expected:
        raise InvalidAdapter(
            f"{name}: expected {', '.join(sorted(expected))} by the configuration, got {', '.join(sorted(parts))}"
        )


def _matrix(entry: TensorEntry) -> tuple[int, int]:
    if len(entry.shape) != 2 or 0 in entry.shape:  # noqa: PLR2004 - rows and columns
        raise InvalidAdapter(f"tensor {entry.name!r}: expected a matrix, got shape {list(entry.shape)}")
    return entry.shape[0], entry.shape[1]
