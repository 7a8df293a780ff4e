"""The verdict: does this adapter fit this base?

Owns what counts as the same base, and how a verdict with reasons becomes an error. Reads facts
alone. Does not know which base a name means (the caller looks it up), nor where an adapter is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Protocol

from lorry.errors import IncompatibleAdapter
from lorry.format.base import BaseFacts
from lorry.format.facts import AdapterFacts
from lorry.format.findings import Code, Finding
from lorry.format.fitting import misfits

# An error message travels in HTTP/2 trailers, which gRPC bounds to 8 KB in all: 20 reasons of some 100 characters
# fit beside the rest. All of them are in the findings.
_TOLD = 20
_MESSAGE = 200


class CarryOver(StrEnum):
    """Whether adapters of the bases that a base descends from may be served on it."""

    ALLOW = "allow"
    WARN = "warn"
    REFUSE = "refuse"


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
    return (*_identity(facts, base, claimed, carry_over, by_name=by_name), *misfits(facts, base))


class Told(Protocol):
    """A Finding, or the message that carries one: its code may be of a newer release than this."""

    @property
    def code(self) -> str:
        """One of Code, as far as this release knows."""

    @property
    def message(self) -> str:
        """In words."""

    @property
    def warning(self) -> bool:
        """Whether it is a remark."""


def refuse(findings: Iterable[Told], base: str = "the base") -> None:
    """Raise IncompatibleAdapter with every reason (the first 20 in words) where one is no warning."""
    reasons = [finding for finding in findings if not finding.warning]
    if not reasons:
        return
    told = [f"{finding.code}: {finding.message[:_MESSAGE]}" for finding in reasons[:_TOLD]]
    if len(reasons) > _TOLD:
        told.append(f"and {len(reasons) - _TOLD} more")
    codes = ",".join(sorted({finding.code for finding in reasons}))
    raise IncompatibleAdapter(f"the adapter does not fit {base}: {'; '.join(told)}", findings=codes)


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


def _short(facts: AdapterFacts) -> str:
    return repr((facts.base_name or "")[:80])
