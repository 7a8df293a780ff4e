"""The verdict: does this adapter fit this base?

Owns every reason there is, and how a verdict with reasons becomes an error. Reads facts alone. Does
not know which base a name means (the caller looks it up), nor where an adapter is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lorry.errors import IncompatibleAdapter
from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.facts import AdaptedModule, AdapterFacts

# An error message travels in HTTP/2 trailers, which gRPC bounds to 8 KB in all: 20 reasons of some 100 characters
# fit beside the rest. All of them are in the findings.
_TOLD = 20
_MESSAGE = 200


class Code(StrEnum):
    """Why an adapter does not fit, as on the wire."""

    UNKNOWN_MODULE = "UNKNOWN_MODULE"
    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    RANK_MISMATCH = "RANK_MISMATCH"
    UNSUPPORTED_VARIANT = "UNSUPPORTED_VARIANT"
    BASE_MISMATCH = "BASE_MISMATCH"
    BASE_UNVERIFIED = "BASE_UNVERIFIED"
    BASE_VARIANT = "BASE_VARIANT"
    VOCABULARY_MISMATCH = "VOCABULARY_MISMATCH"
    QUANTIZATION_MISMATCH = "QUANTIZATION_MISMATCH"


class CarryOver(StrEnum):
    """Whether adapters of the bases that a base descends from may be served on it."""

    ALLOW = "allow"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason, or (`warning`) one remark. `module` is empty where it is about the whole adapter."""

    code: Code
    message: str
    module: str = ""
    warning: bool = False


def judge(
    facts: AdapterFacts,
    base: BaseFacts,
    *,
    claimed: BaseFacts | None,
    by_name: bool = False,
    carry_over: CarryOver = CarryOver.REFUSE,
) -> tuple[Finding, ...]:
    """Every reason against serving the adapter on `base`; empty, or warnings alone, where it fits.

    claimed: the base that the adapter was made for: of a published version its manifest's, else the
    one that the configuration's base_model_name_or_path means (`facts.base_name`, looked up by the
    caller), None where it means none that is known. by_name: `base` was found by that name alone,
    nobody vouches for it. carry_over: the policy of `base` where it descends from `claimed`, else
    REFUSE. Whatever the policy, a module of another shape is refused.
    """
    table = {module.name: module for module in base.modules}
    found = list(_identity(facts, base, claimed, carry_over, by_name=by_name))
    for module in facts.modules:
        found.extend(_module(module, table.get(module.name), base))
    return tuple(found)


def refuse(findings: Sequence[Finding]) -> None:
    """Raise IncompatibleAdapter with every reason (the first 20 in words) where one is no warning."""
    reasons = [finding for finding in findings if not finding.warning]
    if not reasons:
        return
    told = [f"{finding.code}: {finding.message[:_MESSAGE]}" for finding in reasons[:_TOLD]]
    if len(reasons) > _TOLD:
        told.append(f"and {len(reasons) - _TOLD} more")
    codes = ",".join(sorted({finding.code for finding in reasons}))
    raise IncompatibleAdapter("the adapter does not fit the base: " + "; ".join(told), findings=codes)


def _identity(
    facts: AdapterFacts, base: BaseFacts, claimed: BaseFacts | None, carry_over: CarryOver, *, by_name: bool
) -> Iterator[Finding]:
    if claimed is None:
        name = f"no known base is called {_short(facts)}" if facts.base_name else "the adapter names no base"
        yield Finding(Code.BASE_UNVERIFIED, f"{name}: only shapes were compared with {base.base_id}", warning=True)
    elif claimed.base_id != base.base_id:
        yield from _vocabulary(base, claimed, carry_over)
        yield from _other(base, claimed, carry_over)
    elif by_name:
        yield Finding(Code.BASE_UNVERIFIED, f"the base was found by the name {_short(facts)} alone", warning=True)


def _vocabulary(base: BaseFacts, claimed: BaseFacts, carry_over: CarryOver) -> Iterator[Finding]:
    if claimed.vocab_size != base.vocab_size:
        yield Finding(
            Code.VOCABULARY_MISMATCH,
            f"trained on a vocabulary of {claimed.vocab_size} tokens, this base has {base.vocab_size}",
            # A variant with a few tokens more serves it all the same, but nobody should have to find that out.
            warning=carry_over is not CarryOver.REFUSE,
        )


def _other(base: BaseFacts, claimed: BaseFacts, carry_over: CarryOver) -> Iterator[Finding]:
    bases = f"{claimed.base_id}; this base is {base.base_id}"
    if carry_over is CarryOver.WARN:
        yield Finding(Code.BASE_VARIANT, f"trained on {bases}, a variant of it", warning=True)
    elif carry_over is CarryOver.REFUSE and _requantized(base, claimed):
        yield Finding(
            Code.QUANTIZATION_MISMATCH,
            f"trained on weights quantised as {claimed.quantization}, this base's are {base.quantization}",
        )
    elif carry_over is CarryOver.REFUSE:
        yield Finding(Code.BASE_MISMATCH, f"trained on {bases}")


def _requantized(base: BaseFacts, claimed: BaseFacts) -> bool:
    return claimed.architecture_id == base.architecture_id and claimed.quantization != base.quantization


def _module(module: AdaptedModule, target: BaseModule | None, base: BaseFacts) -> Iterator[Finding]:
    if target is None:
        yield Finding(Code.UNKNOWN_MODULE, f"the base has no module {module.name}", module.name)
        return
    if target.kind is ModuleKind.EMBEDDING:
        yield Finding(
            Code.UNSUPPORTED_VARIANT, f"{module.name} is an embedding: only linear layers are served", module.name
        )
        return
    yield from _shape(module, target, base)


def _shape(module: AdaptedModule, target: BaseModule, base: BaseFacts) -> Iterator[Finding]:
    expected, came = (target.in_features, target.out_features), (module.in_features, module.out_features)
    if expected != came:
        # The output head is as wide as the vocabulary: there another width is another vocabulary.
        head = expected[0] == came[0] and expected[1] == base.vocab_size
        yield Finding(
            Code.VOCABULARY_MISMATCH if head else Code.SHAPE_MISMATCH,
            f"{module.name}: the base has {_arrow(expected)} features, the adapter was made for {_arrow(came)}",
            module.name,
        )
    if module.rank > min(expected):
        yield Finding(
            Code.RANK_MISMATCH,
            f"{module.name}: rank {module.rank} is more than the module's smaller side, {min(expected)} features",
            module.name,
            warning=True,  # a wide `cat` is exact all the same; it only takes more rows than its delta needs
        )


def _short(facts: AdapterFacts) -> str:
    return repr((facts.base_name or "")[:80])


def _arrow(features: tuple[int, int]) -> str:
    return f"{features[0]} -> {features[1]}"
