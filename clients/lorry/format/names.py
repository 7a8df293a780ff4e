"""How stock PEFT names the tensors of an adapter: module path and part, taken apart and put together.

Owns the closed list of parts and what a module path may look like. Does not know what a
configuration asks for, nor what a base has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache

from lorry.errors import InvalidAdapter
from lorry.format.facts import AdaptedExperts, AdaptedModule, SavedModule

_PREFIX = "base_model.model."
_PATH = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
# Segments that PEFT puts into a path itself: a module of such a name is another adapter's inside.
_WRAPPERS = frozenset({"base_layer", "base_model", "modules_to_save", "original_module", "token_adapter"})
_MAX_PATH = 500
# How much of a name a message shows.
_SHOWN = 200
# Modules whose tensors' names are kept: adapters of one base have the same. Some 0.5 KB each.
_NAMED = 4096


class Part(StrEnum):
    """What stands behind the module's path in a tensor's name."""

    A = "lora_A.weight"
    B = "lora_B.weight"
    B_BIAS = "lora_B.bias"
    # Where a module has LoRA on two parameters: of the one that PEFT wraps first.
    INNER_A = "base_layer.lora_A.weight"
    INNER_B = "base_layer.lora_B.weight"
    MAGNITUDE = "lora_magnitude_vector"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    TOKENS = "token_adapter.trainable_tokens_delta"
    # A module that was replaced, or a bias of one that has no LoRA.
    WEIGHT = "weight"
    BIAS = "bias"
    # The bias of a module that has LoRA, where biases were trained.
    BASE_BIAS = "base_layer.bias"
    # The base's own weight, which PEFT writes beside LoRA on an embedding.
    BASE_WEIGHT = "base_layer.weight"
    # A resized embedding beside trained tokens: PEFT writes it from under the wrapper.
    RESIZED = "token_adapter.base_layer.weight"
    # What else PEFT writes of a module that was replaced and resized: the base's, and the replacement again.
    ORIGINAL_WEIGHT = "original_module.weight"
    ORIGINAL_BIAS = "original_module.bias"
    AGAIN_WEIGHT = "modules_to_save.weight"
    AGAIN_BIAS = "modules_to_save.bias"


_PARTS = {part.value: part for part in Part}
_MOST_SEGMENTS = 1 + max(part.count(".") for part in Part)


def place(name: str) -> tuple[str, Part]:
    """Module path and part of a tensor's name. Raises InvalidAdapter where it is none of an adapter's."""
    part = _part(name)
    if part is None or not name.startswith(_PREFIX):
        raise stray(name)
    module = name[len(_PREFIX) : -len(part) - 1]
    if not is_path(module) or not _plain(module):
        raise InvalidAdapter(f"tensor {name[:_SHOWN]!r}: expected the path of a module of the base in its name")
    return module, part


def stray(name: str) -> InvalidAdapter:
    """The error for a tensor that has no place in the adapter as it is configured."""
    return InvalidAdapter(
        f"stray tensor {name[:_SHOWN]!r}: expected {_PREFIX}<module>. with one of {Part.A}, {Part.B}, "
        f"{Part.EMBEDDING_A}, {Part.EMBEDDING_B} behind it, or what the configuration names"
    )


def is_path(text: str) -> bool:
    """Whether this is how a module, or the end of its path, is written."""
    return len(text) <= _MAX_PATH and _PATH.fullmatch(text) is not None


def ends(path: str) -> Iterator[str]:
    """A path and what stands behind each of its dots: what a literal name may match it by."""
    yield path
    at = path.find(".")
    while at >= 0:
        yield path[at + 1 :]
        at = path.find(".", at + 1)


def tensor_name(module: str, part: Part) -> str:
    """What a part of a module is called in the file."""
    return f"{_PREFIX}{module}.{part}"


@lru_cache(_NAMED)
def tensor_names(module: str) -> tuple[str, str, str, str]:
    """What the tensors of LoRA on a linear layer are called: A, B, bias of B, magnitude."""
    return (
        tensor_name(module, Part.A),
        tensor_name(module, Part.B),
        tensor_name(module, Part.B_BIAS),
        tensor_name(module, Part.MAGNITUDE),
    )


def lora_names(module: AdaptedModule) -> list[str]:
    """The tensors that LoRA on this module has in the file: A and B, and what else was trained beside them."""
    a, b, bias, magnitude = tensor_names(module.name)
    if module.embedding:
        a, b = tensor_name(module.name, Part.EMBEDDING_A), tensor_name(module.name, Part.EMBEDDING_B)
    return [a, b, *([bias] if module.lora_bias else ()), *([magnitude] if module.magnitude else ())]


def experts_names(experts: AdaptedExperts) -> tuple[str, str]:
    """What A and B of LoRA on stacked experts are called in the file."""
    a, b = (Part.INNER_A, Part.INNER_B) if experts.inner else (Part.A, Part.B)
    return tensor_name(experts.name, a), tensor_name(experts.name, b)


def saved_name(module: SavedModule, parameter: str) -> str:
    """What a parameter (`weight` or `bias`) of a replaced module is called in the file."""
    return tensor_name(module.name, Part.RESIZED if module.under_tokens else Part(parameter))


def _part(name: str) -> Part | None:
    """The longest part that the name ends with: longer ones end like shorter ones."""
    found, at = None, len(name)
    for _ in range(_MOST_SEGMENTS):
        at = name.rfind(".", 0, at)
        if at < 0:
            break
        found = _PARTS.get(name[at + 1 :], found)
    return found


def _plain(module: str) -> bool:
    return not any(segment in _WRAPPERS or segment.startswith("lora_") for segment in module.split("."))
