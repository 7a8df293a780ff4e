"""What a caller may write: lengths, characters and counts of every text that is stored.

Owns the limits that types.proto promises. Text without control characters fits every database,
terminal and log. Does not know what exists already.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from adapter_registry.domain.records import MAX_KNOWN_AS, BaseRecord
from lorry.errors import InvalidInput
from lorry.format.base import BaseModule, ModuleKind
from lorry.format.digest import check_digest
from lorry.format.manifest import Recipe, canonical_json
from lorry.format.reference import check_name
from lorry.format.strict_json import Limits, parse_object

MAX_DESCRIPTION = 4_096
MAX_LABELS = 64
MAX_LABEL = 63
MAX_KEEP_LAST = 1_000_000
MAX_HOLDER = 200
MAX_REASON = 1_000
# Hub names are two words of up to 96 characters; local paths come too.
MAX_BASE_NAME = 500
# The largest mixtures of experts have some 45,000 linears.
MAX_MODULES = 100_000
MAX_MODULE_NAME = 500
MAX_PARENTS = 64
_MAX_FEATURES = 1 << 31
_WORD = 100
_PARAMETERS = Limits(size=4_096, depth=2, values=64)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def check_text(text: str, what: str, longest: int, *, shortest: int = 0) -> str:
    """The text, where its length fits and no control characters but line breaks and tabs are in it.

    Raises InvalidInput.
    """
    if not shortest <= len(text) <= longest:
        raise InvalidInput(f"{what}: expected {shortest} to {longest} characters, got {len(text)}")
    if not is_plain(text):
        raise InvalidInput(f"{what}: expected text without control characters, got {text[:80]!r}")
    return text


def is_plain(text: str) -> bool:
    """Whether there are no control characters in it but line breaks and tabs."""
    return _CONTROL.search(text) is None


def check_description(text: str) -> str:
    """Raises InvalidInput."""
    return check_text(text, "description", MAX_DESCRIPTION)


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Up to 64; keys of 1 to 63 characters, values of up to 63. Raises InvalidInput."""
    if len(labels) > MAX_LABELS:
        raise InvalidInput(f"labels: expected at most {MAX_LABELS}, got {len(labels)}")
    for key, value in labels.items():
        check_text(key, "key of a label", MAX_LABEL, shortest=1)
        check_text(value, f"label {key!r}", MAX_LABEL)
    return dict(labels)


def check_keep_last(count: int) -> int:
    """How many versions retention keeps; 0 for all. Raises InvalidInput."""
    if not 0 <= count <= MAX_KEEP_LAST:
        raise InvalidInput(f"keep_last: expected 0 to {MAX_KEEP_LAST}, got {count}")
    return count


def check_holder(text: str) -> str:
    """Who holds leases: ASCII, so that it can be a place in a list. Raises InvalidInput."""
    if not text.isascii():
        raise InvalidInput(f"holder: expected ASCII, got {text[:80]!r}")
    return check_text(text, "holder", MAX_HOLDER, shortest=1)


def check_reason(text: str) -> str:
    """Why a version is yanked; something must be said. Raises InvalidInput."""
    return check_text(text.strip(), "reason", MAX_REASON, shortest=1)


def check_recipe(recipe: Recipe) -> Recipe:
    """Sources that are digests with finite weights, parameters as canonical JSON.

    Raises InvalidInput, InvalidDigest. Whether the sources exist is the catalogue's to say.
    """
    check_text(recipe.method, "recipe.method", _WORD, shortest=1)
    check_text(recipe.tool, "recipe.tool", _WORD)
    if not 1 <= len(recipe.sources) <= MAX_PARENTS:
        raise InvalidInput(f"recipe.sources: expected 1 to {MAX_PARENTS}, got {len(recipe.sources)}")
    for source in recipe.sources:
        check_digest(source.digest)
        if not math.isfinite(source.weight):
            raise InvalidInput(f"recipe: expected a finite weight for {source.digest}, got {source.weight}")
    _check_parameters(recipe.parameters_json)
    return recipe


def check_base(base: BaseRecord) -> BaseRecord:
    """A base as somebody announces it. Raises InvalidName, InvalidDigest, InvalidInput."""
    check_name(base.name, "base name")
    check_digest(base.facts.base_id)
    check_digest(base.facts.architecture_id)
    if base.derived_from is not None:
        check_digest(base.derived_from)
    check_text(base.facts.model_type, "model_type", _WORD, shortest=1)
    check_text(base.facts.quantization, "quantization", _WORD, shortest=1)
    _check_count(base.facts.vocab_size, "vocab_size")
    _check_known_as(base.known_as)
    _check_modules(base.facts.modules)
    return base


def _check_parameters(text: str) -> None:
    fields = parse_object(text.encode(), "recipe.parameters_json", _PARAMETERS)
    if canonical_json(fields) != text:
        raise InvalidInput(f"recipe.parameters_json: expected {canonical_json(fields)!r}, got {text!r}")


def _check_known_as(names: Sequence[str]) -> None:
    if len(names) > MAX_KNOWN_AS:
        raise InvalidInput(f"known_as: expected at most {MAX_KNOWN_AS} names, got {len(names)}")
    for name in names:
        check_text(name, "known_as", MAX_BASE_NAME, shortest=1)


def _check_modules(modules: Sequence[BaseModule]) -> None:
    if not 1 <= len(modules) <= MAX_MODULES:
        raise InvalidInput(f"modules: expected 1 to {MAX_MODULES}, got {len(modules)}")
    names = [module.name for module in modules]
    for name in names:
        check_text(name, "name of a module", MAX_MODULE_NAME, shortest=1)
    if names != sorted(set(names)):
        raise InvalidInput(f"modules: expected them ordered by name, each once, got {_first_disorder(names)!r}")
    for module in modules:
        _check_count(module.in_features, f"in_features of {module.name}")
        _check_count(module.out_features, f"out_features of {module.name}")
        if (module.kind is ModuleKind.EXPERTS) != bool(module.experts):
            raise InvalidInput(
                f"experts of {module.name}: expected a number for a stack of experts, and for no other kind"
            )
        if module.experts:
            _check_count(module.experts, f"experts of {module.name}")


def _first_disorder(names: Iterable[str]) -> str:
    last = ""
    for name in names:
        if name <= last:
            return name
        last = name
    return ""


def _check_count(count: int, what: str) -> None:
    if not 1 <= count < _MAX_FEATURES:
        raise InvalidInput(f"{what}: expected 1 or more, got {count}")
