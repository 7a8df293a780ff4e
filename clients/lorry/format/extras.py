"""What a configuration says beyond LoRA on modules: replaced ones, tokens, biases, an invocation, experts.

Owns the reading of these fields and PEFT's ways of naming modules by the end of their path. Does not
know which tensors there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lorry.errors import InvalidAdapter, UnsupportedAdapter
from lorry.format.names import ends, is_path

_BIASES = ("none", "all", "lora_only")
# Entries that name modules by their ends: one for each kind of layer is a dozen; every path is tried with each.
_MAX_ENTRIES = 64
# As a base's vocabulary may be written in 32 bits, and far above any that there is.
_MAX_TOKEN = (1 << 31) - 1
# An invocation is a line of a chat template, some 10 to 40 tokens; it is looked for in every prompt.
_MAX_INVOCATION = 256
# What transformers calls the module of a layer's experts, and the two parameters that stack their weights, in the
# order in which a module has them and PEFT wraps them.
_EXPERTS = "experts"
STACKED = ("gate_up_proj", "down_proj")
# How much of a value a message shows.
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Extras:
    """The fields that replace something, or that say when the adapter is active; see AdapterFacts.

    saved: entries of modules_to_save. tokens: end of an embedding's path -> token ids; the end is
    empty where the configuration gives a bare list. tied: ensure_weight_tying. parameters: entries of
    target_parameters.
    """

    saved: frozenset[str]
    tokens: Mapping[str, tuple[int, ...]]
    bias: str
    invocation: tuple[int, ...]
    tied: bool
    parameters: frozenset[str]

    def parameters_of(self, module: str) -> tuple[str, ...]:
        """The parameters that target_parameters names of a module, by their path or the end of it."""
        if module.rpartition(".")[2] != _EXPERTS:
            return ()
        return tuple(name for name in STACKED if not self.parameters.isdisjoint(ends(f"{module}.{name}")))

    def is_saved(self, module: str) -> bool:
        """Whether modules_to_save names the module or one that it lies in, by the end of its path (any end, as
        PEFT takes it).
        """
        return any(f"{entry}." in f"{module}." for entry in self.saved)

    def tokens_of(self, module: str) -> tuple[int, ...] | None:
        """The token ids for a module, None where it has none. Raises InvalidAdapter where two entries differ."""
        found = {ids for end, ids in self.tokens.items() if module.endswith(end)}
        if len(found) > 1:
            raise InvalidAdapter(f"{module}: two entries of trainable_token_indices name it, with different tokens")
        return found.pop() if found else None


def parse_extras(fields: Mapping[str, object]) -> Extras:
    """Read them off a configuration. Raises InvalidAdapter."""
    bias = fields.get("bias", "none")
    if bias not in (None, *_BIASES):
        raise _wrong("bias", f"one of {', '.join(_BIASES)}", bias)
    return Extras(
        saved=frozenset(_ends("modules_to_save", _list("modules_to_save", fields.get("modules_to_save")))),
        tokens=_tokens(fields.get("trainable_token_indices")),
        bias=str(bias or "none"),
        invocation=_invocation(fields.get("alora_invocation_tokens")),
        tied=fields.get("ensure_weight_tying") is True,
        parameters=frozenset(_parameters(fields.get("target_parameters"))),
    )


def _tokens(value: object) -> Mapping[str, tuple[int, ...]]:
    field = "trainable_token_indices"
    if isinstance(value, dict):
        return {end: _distinct(field, value[end]) for end in _ends(field, list(value))}
    ids = _list(field, value)
    return {"": _distinct(field, ids)} if ids else {}


def _invocation(value: object) -> tuple[int, ...]:
    field = "alora_invocation_tokens"
    ids = _list(field, value)
    if len(ids) > _MAX_INVOCATION:
        raise _wrong(field, f"at most {_MAX_INVOCATION} tokens", len(ids))
    return tuple(_token(field, token) for token in ids)


def _parameters(value: object) -> Iterable[str]:
    field = "target_parameters"
    for entry in _list(field, value):
        if isinstance(entry, str) and entry.rpartition(".")[2] not in STACKED:
            raise UnsupportedAdapter(
                f"adapter_config.json: {field}: LoRA on a parameter is served where it stacks the weights of experts, "
                f"{' or '.join(STACKED)}; got {entry[:_SHOWN]!r}"
            )
        if not isinstance(entry, str) or not is_path(entry):
            raise _wrong(field, "the ends of parameters' paths", entry)
        yield entry


def _ends(field: str, entries: list[object]) -> Iterable[str]:
    if len(entries) > _MAX_ENTRIES:
        raise _wrong(field, f"at most {_MAX_ENTRIES} names", len(entries))
    for entry in entries:
        if not isinstance(entry, str) or not is_path(entry):
            raise _wrong(field, "the ends of module paths", entry)
        yield entry


def _distinct(field: str, value: object) -> tuple[int, ...]:
    ids = tuple(_token(field, token) for token in _list(field, value))
    if not ids:
        raise _wrong(field, "the tokens of each embedding", value)
    token, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise InvalidAdapter(f"adapter_config.json: {field}: expected each token once, got {token} {times} times")
    return ids


def _token(field: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_TOKEN:
        raise _wrong(field, f"token ids of 0 to {_MAX_TOKEN}", value)
    return value


def _list(field: str, value: object) -> list[object]:
    if value is None or value is False or value in ("", {}):
        return []  # as every field may, it says nothing
    if not isinstance(value, list):
        raise _wrong(field, "a list", value)
    return value


def _wrong(field: str, expected: str, came: object) -> InvalidAdapter:
    return InvalidAdapter(f"adapter_config.json: {field}: expected {expected}, got {repr(came)[:_SHOWN]}")
