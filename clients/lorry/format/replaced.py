"""What an adapter puts in the place of the base's own: modules, rows of embeddings, biases.

Owns the rule that each of these tensors is asked for by the configuration and has the shape that it
must, and that what the configuration asks for is there. Does not know LoRA's own matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lorry.errors import InvalidAdapter
from lorry.format.extras import Extras
from lorry.format.facts import AdaptedModule, SavedModule, TrainedBias, TrainedTokens
from lorry.format.header import TensorEntry, matrix
from lorry.format.names import Part, stray

Parts = Mapping[Part, TensorEntry]

# What input embeddings and output heads are called in transformers: PEFT saves both, unasked, where the vocabulary
# was resized.
_ENDS = frozenset({"embed_in", "embed_out", "embed_tokens", "lm_head", "word_embeddings", "wte"})
# PEFT adds both names to modules_to_save for classification; a model has one of them.
_EITHER = frozenset({"classifier", "score"})
_OWN = {"weight": Part.WEIGHT, "bias": Part.BIAS}
# Written beside a replacement that was resized; PEFT does not read the second again, and the first is what it replaces.
_SPARE = {
    Part.ORIGINAL_WEIGHT: Part.WEIGHT,
    Part.AGAIN_WEIGHT: Part.WEIGHT,
    Part.ORIGINAL_BIAS: Part.BIAS,
    Part.AGAIN_BIAS: Part.BIAS,
}
_REPLACEMENTS = {Part.RESIZED, *_OWN.values(), *_SPARE}


def saved_modules(found: Mapping[str, Parts], extras: Extras) -> tuple[SavedModule, ...]:
    """The replaced modules. Raises InvalidAdapter for one that nobody asked for, or that has no tensors."""
    own = {name: parts for name, parts in found.items() if not parts.keys().isdisjoint(_REPLACEMENTS)}
    missing = {entry for entry in extras.saved - _EITHER if not any(f"{entry}." in f"{name}." for name in own)}
    if missing:
        raise InvalidAdapter(f"modules_to_save names {min(missing)}, the file has no tensors for it")
    saved = (_saved(name, parts, extras) for name, parts in own.items())
    return tuple(module for module in saved if module)


def trained_tokens(found: Mapping[str, Parts], extras: Extras) -> tuple[TrainedTokens, ...]:
    """The replaced rows. Raises InvalidAdapter where tensors and trainable_token_indices do not match."""
    tokens = tuple(_tokens(name, parts, extras) for name, parts in found.items() if Part.TOKENS in parts)
    there = {module.indices for module in tokens}
    # Of embedding and head, tied and with the same tokens, PEFT writes one; or both, where they were resized.
    missing = [end or "the embedding" for end, ids in extras.tokens.items() if ids not in there]
    alone = [module for module in tokens if Part.RESIZED not in found[module.name]]
    if missing or ("" in extras.tokens and len(alone) > 1):
        raise InvalidAdapter(
            f"trainable_token_indices: expected tensors for {', '.join(missing)[:200] or 'one embedding'}, "
            f"got {len(tokens)}"
        )
    return tokens


def trained_biases(
    found: Mapping[str, Parts], saved: Iterable[SavedModule], modules: Iterable[AdaptedModule], extras: Extras
) -> tuple[TrainedBias, ...]:
    """The replaced biases, but those of replaced modules.

    Raises InvalidAdapter for one that `bias` does not ask for, or that is no vector.
    """
    widths = {module.name: module.out_features for module in modules}
    passed = {module.name for module in saved}
    return tuple(
        _bias(name, parts, extras, widths.get(name))
        for name, parts in found.items()
        if name not in passed and not parts.keys().isdisjoint({Part.BIAS, Part.BASE_BIAS})
    )


def base_copies(found: Mapping[str, Parts], modules: tuple[AdaptedModule, ...]) -> tuple[str, ...]:
    """The modules whose base weight is in the file. Raises InvalidAdapter for a shape that cannot be the base's."""
    table = {module.name: module for module in modules}
    copies = [name for name, parts in found.items() if Part.BASE_WEIGHT in parts]
    for name in copies:
        module, entry = table[name], found[name][Part.BASE_WEIGHT]
        rows, columns = module.out_features, module.in_features
        expected = (columns, rows) if module.embedding else (rows, columns)
        if entry.shape != expected:
            raise InvalidAdapter(f"tensor {entry.name!r}: expected {list(expected)}, got {list(entry.shape)}")
    return tuple(copies)


def _saved(name: str, parts: Parts, extras: Extras) -> SavedModule | None:
    if Part.RESIZED in parts:
        return _resized(name, parts, extras)
    own = {parameter: parts[part] for parameter, part in _OWN.items() if part in parts}
    if not own or not (extras.is_saved(name) or (_is_end(name) and Part.WEIGHT in parts)):
        if parts.keys() == {Part.BIAS}:
            return None  # a trained bias, or a stray one
        raise stray(next(entry.name for part, entry in parts.items() if part is not Part.BIAS))
    for part, of in _SPARE.items():
        if part in parts and (of not in parts or parts[part].shape != parts[of].shape):
            raise InvalidAdapter(f"tensor {parts[part].name!r}: expected it beside {of} of the same shape")
    return SavedModule(name, tuple((parameter, _sound(parameter, entry)) for parameter, entry in own.items()))


def _resized(name: str, parts: Parts, extras: Extras) -> SavedModule:
    entry = parts[Part.RESIZED]
    # The head that is tied to the embedding has no tokens of its own.
    if not extras.tokens or not (Part.TOKENS in parts or _is_end(name)):
        raise stray(entry.name)
    return SavedModule(name, (("weight", matrix(entry)),), under_tokens=True)


def _tokens(name: str, parts: Parts, extras: Extras) -> TrainedTokens:
    entry, indices = parts[Part.TOKENS], extras.tokens_of(name)
    if indices is None and Part.RESIZED in parts and _is_end(name):
        indices = next(iter(extras.tokens.values()), None)  # those of the embedding that the head is tied to
    if indices is None:
        raise stray(entry.name)
    rows, features = matrix(entry)
    if rows != len(indices):
        raise InvalidAdapter(f"tensor {entry.name!r}: expected {len(indices)} rows by the configuration, got {rows}")
    return TrainedTokens(name, indices, features)


def _bias(name: str, parts: Parts, extras: Extras, width: int | None) -> TrainedBias:
    part = Part.BASE_BIAS if Part.BASE_BIAS in parts else Part.BIAS
    entry = parts[part]
    if extras.bias == "none" or (extras.bias == "lora_only" and part is Part.BIAS):
        raise stray(entry.name)
    (features,) = _sound("bias", entry)
    if width not in (None, features):
        raise InvalidAdapter(f"{name}: expected a bias of [{width}], got [{features}]")
    return TrainedBias(name, features)


def _is_end(name: str) -> bool:
    return name.rpartition(".")[2] in _ENDS


def _sound(parameter: str, entry: TensorEntry) -> tuple[int, ...]:
    # Weights of linear layers and embeddings are matrices, of norms vectors; a bias is a vector.
    kinds = ("a vector",) if parameter == "bias" else ("a vector", "a matrix")
    if not 1 <= len(entry.shape) <= len(kinds) or 0 in entry.shape:
        raise InvalidAdapter(f"tensor {entry.name!r}: expected {' or '.join(kinds)}, got shape {list(entry.shape)}")
    return entry.shape
