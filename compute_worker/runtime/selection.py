"""From references to versions, once a request.

Owns which selections have a meaning, and where an answer comes from: a reference by digest from what
this worker knows, so that it serves what it holds while the registry is down; a name or an alias from
memory while that is kept right, else from the registry. Does not know tiers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from compute_worker.contract import AdapterSource
from compute_worker.runtime.api import Weighted
from compute_worker.runtime.known import Known
from compute_worker.runtime.names import Names, Withdrawn
from compute_worker.runtime.rights import Homes, Permission, rights
from compute_worker.runtime.version import COMBINED, Choice, Version
from lorry.errors import (
    AdapterNotFound,
    DigestMismatch,
    InvalidSelection,
    LorryError,
    RegistryUnavailable,
    SignatureRequired,
    VersionNotFound,
)
from lorry.format.reference import Reference, parse_reference

# Each adapter of a selection is a pull, a lease and an entry in every row of a step; nobody was seen
# to sum more than a handful.
MAX_ADAPTERS = 16
# The largest finite number of float16, the narrowest type that a step computes in.
MAX_WEIGHT = 65504.0


class Resolver:
    """References to versions. `combined`: the version of a recipe digest that this worker holds, else None."""

    def __init__(
        self,
        source: AdapterSource,
        known: Known,
        names: Names,
        withdrawn: Withdrawn,
        combined: Callable[[str], Version | None],
    ) -> None:
        self._source = source
        self._known = known
        self._names = names
        self._withdrawn = withdrawn
        self._combined = combined

    async def version(self, reference: str, *, asked_anew: bool = False) -> Version:
        """What the reference means now.

        asked_anew: do not answer a name from memory. An operator who has just moved an alias means what
        it is now, though its event is still on the way. Raises InvalidReference, InvalidName,
        RegistryUnavailable, the registry's own errors, DigestMismatch where it answers with another
        version than was asked for, and SignatureRequired.
        """
        asked = parse_reference(reference)
        if made := self.combination(asked):
            return made
        if asked.digest:
            return await self._exact(asked)
        here = self._names.get(asked)
        if here is not None and not asked_anew:
            return here
        spell = self._names.spell
        version = await self.ask(asked)
        # What is remembered moves with its event, once its next meaning is loaded.
        if asked not in self._names:
            self._names.remember(asked, version, spell)
        return version

    async def confirm(self, choice: Choice) -> None:
        """Raise VersionNotFound for a choice that was deleted, VersionYanked for one that was by name."""
        if choice.exact is not None and self._withdrawn.deleted(choice.exact):
            await self._exact(choice.exact)
        self._withdrawn.check(choice)

    async def _exact(self, asked: Reference) -> Version:
        """What is known here is served without a registry. What is refused here it may still have: it was restored
        from its backup, or has a signature that came later.
        """
        refused: LorryError | None = None
        try:
            self._withdrawn.check_exact(asked)
            if here := self._known.get(asked):
                return here
        except (VersionNotFound, SignatureRequired) as error:
            refused = error
        try:
            return await self.ask(asked)
        except (RegistryUnavailable, AdapterNotFound, VersionNotFound):
            if refused is not None:
                raise refused from None
            raise

    async def ask(self, asked: Reference) -> Version:
        """What the registry says that a reference means.

        An answer that something overtook on its way is asked for again. So what it says of a version is newer than
        what was heard of it. Raises as `version`.
        """
        while True:
            with self._names.asking(asked.adapter) as question:
                published = await self._source.resolve(str(asked))
            if not question.overtaken:
                break
        if asked.digest not in (None, published.digest):
            raise DigestMismatch(f"asked for {asked.digest}, the registry answered {published.digest}")
        version = self._known.add(asked.adapter, published)
        self._withdrawn.learn(Reference(asked.adapter, digest=published.digest), published.yank_reason)
        return version

    def combination(self, asked: Reference) -> Version | None:
        """The combination of this worker that is asked for; None where there is none for the caller's eyes."""
        made = self._combined(asked.digest) if asked.adapter == COMBINED and asked.digest else None
        return made if made is not None and rights().reach(Permission.READ, made.homes) else None

    def homes(self, reference: str) -> Homes:
        """The namespaces that decide about a reference, there or not. Raises InvalidReference, InvalidName."""
        asked = parse_reference(reference)
        made = self.combination(asked)
        return (frozenset({asked.adapter.namespace}),) if made is None else made.homes

    async def choose(self, selection: Sequence[Weighted], *, asked_anew: bool = False) -> tuple[Choice, ...]:
        """Every adapter of a selection. Raises InvalidSelection, and as `version`."""
        check_selection(selection)
        versions = await asyncio.gather(*(self.version(item.adapter, asked_anew=asked_anew) for item in selection))
        return distinct([Choice(i.adapter, v, i.weight) for i, v in zip(selection, versions, strict=True)])


def check_selection(selection: Sequence[Weighted]) -> None:
    """Raise InvalidSelection for too many adapters, or a weight that is beyond MAX_WEIGHT."""
    if len(selection) > MAX_ADAPTERS:
        raise InvalidSelection(f"expected at most {MAX_ADAPTERS} adapters, got {len(selection)}")
    for item in selection:
        check_weight(item.adapter, item.weight)


def check_weight(adapter: str, weight: float) -> None:
    """Raise InvalidSelection for one that is not finite or beyond MAX_WEIGHT."""
    if not abs(weight) <= MAX_WEIGHT:  # NaN is not
        raise InvalidSelection(
            f"{adapter}: expected a finite weight, from {-MAX_WEIGHT:.0f} to {MAX_WEIGHT:.0f}, got {weight}"
        )


def distinct(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """The choices. Raises InvalidSelection where two of them are the same version."""
    chosen: dict[str, Choice] = {}
    for choice in choices:
        if twin := chosen.get(choice.version.digest):
            raise InvalidSelection(f"{twin.adapter} and {choice.adapter} are the same version {choice.version.digest}")
        chosen[choice.version.digest] = choice
    return tuple(chosen.values())
