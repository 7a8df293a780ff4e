"""adapter_config.json as an allow-list: what Lorry understands of it, and nothing else gets by.

Owns the meaning of each field of PEFT's LoraConfig: understood, known to be neutral, or refused by
name. An uploader's string is never compiled as a pattern. Does not know which tensors there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from lorry.errors import InvalidAdapter
from lorry.format.extras import Extras, parse_extras
from lorry.format.fields import check_fields, shown
from lorry.format.manifest import canonical_json
from lorry.format.names import ends
from lorry.format.strict_json import Limits, parse_object

_T = TypeVar("_T", int, float)

# A pattern entry for each of 2,048 modules in both patterns, and as many targets, 80 bytes each, is below half a MB.
MAX_CONFIG = 1 << 19
_LIMITS = Limits(size=MAX_CONFIG, depth=6, values=1 << 14)
_MAX_NAME = 500
MAX_RANK = 1 << 16
# Far above any use (alpha is 1 to some 100 times the rank), and small enough that a scaling is finite in fp32.
_MAX_ALPHA = 1e9
# Path segments of Python attributes; a leading ^ anchors at the whole path, as in PEFT's own example.
_PATTERN_KEY = re.compile(r"\^?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
# What PEFT writes itself where it turns targets of experts, which were modules once, into one of their stacked weights.
_FUSED = {r".*\.gate_up_proj": "gate_up_proj"}


@dataclass(frozen=True, slots=True)
class PathPattern(Generic[_T]):
    r"""rank_pattern or alpha_pattern: path suffix -> (place in the file, value); the first place wins.

    PEFT matches `(.*\.)?(key)$` from the beginning of the module's path (peft.utils.get_pattern_key);
    for a literal key that is equality, or a suffix behind a dot.
    """

    entries: Mapping[str, tuple[int, _T]]

    def of(self, module: str, default: _T) -> _T:
        """The value for a module path."""
        hits = [self.entries[key] for key in ("^" + module, *ends(module)) if key in self.entries]
        return min(hits)[1] if hits else default


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What a configuration says. rank and alpha: before patterns, see rank_of and scaling_of.

    targets: entries of a list-type target_modules; None where it is a string or null and the tensor
    names alone decide. extras: what it says beyond LoRA. canonical_json: sorted keys, neutral fields
    dropped.
    """

    rank: int
    alpha: float
    targets: frozenset[str] | None
    rslora: bool
    dora: bool
    lora_bias: bool
    rank_pattern: PathPattern[int]
    alpha_pattern: PathPattern[float]
    base_name: str | None
    extras: Extras
    canonical_json: str

    def rank_of(self, module: str) -> int:
        """Rank of a module after rank_pattern."""
        return self.rank_pattern.of(module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Scaling of a module: alpha / r, with rsLoRA alpha / sqrt(r) (arXiv:2312.03732), after both patterns."""
        rank, alpha = self.rank_of(module), self.alpha_pattern.of(module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def is_target(self, module: str) -> bool:
        """Whether a list-type target_modules names the module: by equality, or by a suffix behind a dot."""
        return self.targets is None or any(end in self.targets for end in ends(module))


def parse_config(data: bytes) -> AdapterConfig:
    """Read adapter_config.json.

    Raises InvalidAdapter (malformed, or values that mean nothing) and UnsupportedAdapter (a kind of
    adapter that Lorry does not serve; the message names the field).
    """
    fields = parse_object(data, "adapter_config.json", _LIMITS)
    meant = check_fields(fields)
    targets = _targets(fields.get("target_modules"))
    if targets:
        meant["target_modules"] = sorted(targets)  # PEFT writes a set, in whatever order it has that day
    dora, lora_bias = bool(fields.get("use_dora")), bool(fields.get("lora_bias"))
    if dora and lora_bias:
        raise InvalidAdapter("adapter_config.json: use_dora and lora_bias exclude each other, as in PEFT")
    extras = parse_extras(fields)
    if dora and extras.invocation:
        raise InvalidAdapter("adapter_config.json: use_dora and alora_invocation_tokens exclude each other, as in PEFT")
    _check_parameters(fields, extras)
    for name, entries in (("modules_to_save", extras.saved), ("target_parameters", extras.parameters)):
        if entries:
            meant[name] = sorted(entries)
    return AdapterConfig(
        rank=_rank("r", fields.get("r")),
        alpha=_alpha("lora_alpha", fields.get("lora_alpha")),
        targets=targets,
        rslora=bool(fields.get("use_rslora")),
        dora=dora,
        lora_bias=lora_bias,
        rank_pattern=_pattern(fields, "rank_pattern", _rank),
        alpha_pattern=_pattern(fields, "alpha_pattern", _alpha),
        base_name=_base_name(fields.get("base_model_name_or_path")),
        extras=extras,
        canonical_json=canonical_json(meant),
    )


def _check_parameters(fields: Mapping[str, object], extras: Extras) -> None:
    for name in ("alora_invocation_tokens", "fan_in_fan_out", "lora_bias", "use_dora"):
        if extras.parameters and fields.get(name):
            raise InvalidAdapter(f"adapter_config.json: target_parameters and {name} exclude each other, as in PEFT")


def _rank(key: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise InvalidAdapter(f"adapter_config.json: {key}: expected a rank of 1 to {MAX_RANK}, got {shown(value)}")
    return value


def _alpha(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_ALPHA:
        raise InvalidAdapter(
            f"adapter_config.json: {key}: expected a number of at most {_MAX_ALPHA:g}, got {shown(value)}"
        )
    return float(value)


def _pattern(fields: Mapping[str, object], name: str, read: Callable[[str, object], _T]) -> PathPattern[_T]:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise InvalidAdapter(f"adapter_config.json: {name}: expected an object, got {shown(value)}")
    entries: dict[str, tuple[int, _T]] = {}
    for place, (written, entry) in enumerate(value.items()):
        key: str = _FUSED.get(written) or written
        if len(key) > _MAX_NAME or not _PATTERN_KEY.fullmatch(key):
            raise InvalidAdapter(
                f"adapter_config.json: {name}: expected literal module paths as keys, got {shown(key)}; "
                "write out a regular expression as one key for each module"
            )
        entries.setdefault(key, (place, read(key, entry)))
    return PathPattern(entries)


def _targets(value: object) -> frozenset[str] | None:
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise InvalidAdapter(
            f"adapter_config.json: target_modules: expected a list of names or a string, got {shown(value)}"
        )
    return frozenset(value)


def _base_name(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise InvalidAdapter(
            "adapter_config.json: base_model_name_or_path: expected a string of at most "
            f"{_MAX_NAME} characters, got {shown(value)}"
        )
    return value
