"""Which adapters of a request are active where in its context: at once, or from their invocation on.

Owns the search for the tokens that invoke an activated LoRA (arXiv 2504.12397), and the phases that
follow from it: before the invocation the keys and values are those of a request without the adapter, and
shared with such. Does not know chunks, blocks or how an adapter came to its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compute_worker.contract import ActiveAdapter
from compute_worker.runtime.job import Phase
from compute_worker.runtime.pool import Lease
from compute_worker.runtime.prefix import beginning
from compute_worker.runtime.version import Choice


@dataclass(frozen=True, slots=True)
class Activation:
    """What a Job takes of it. inactive: digests of the adapters that the prompt does not invoke."""

    adapters: tuple[ActiveAdapter, ...]
    scope: bytes
    later: tuple[Phase, ...] = ()
    inactive: tuple[str, ...] = ()


def activation(owner: str, choices: Sequence[Choice], lease: Lease, prompt: Sequence[int]) -> Activation:
    """When the leased choices are active behind this prompt. owner: see prefix.beginning."""
    begins = [last_start(entry.invocation, prompt) for entry in lease.entries]

    def phase(start: int) -> Phase:
        on = [at for at, begin in enumerate(begins) if begin is not None and begin <= start]
        return Phase(start, tuple(lease.adapters[at] for at in on), beginning(owner, [choices[at] for at in on]))

    first, *later = map(phase, sorted({0, *(begin for begin in begins if begin is not None)}))
    inactive = [choice.version.digest for choice, begin in zip(choices, begins, strict=True) if begin is None]
    return Activation(first.adapters, first.scope, tuple(later), tuple(inactive))


def last_start(invocation: Sequence[int], prompt: Sequence[int]) -> int | None:
    """Where the prompt has these tokens for the last time, 0 where there are none; None where it does not have them.

    As PEFT: an answer that repeats them begins nothing anew.
    """
    size, words = len(invocation), list(invocation)
    if not size:
        return 0
    # An invocation has 256 tokens at most; whatever both are made of, a prompt of 8,192 takes some 10 ms.
    starts = range(len(prompt) - size, -1, -1)
    return next((at for at in starts if prompt[at] == words[0] and list(prompt[at : at + size]) == words), None)
