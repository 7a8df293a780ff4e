"""What of an adapter is no sum: replaced modules, trained tokens and trained biases.

Owns the rule by which a merge carries them over. Either all sources have one alike: they stand on one changed
base, and so does what becomes of them. Or one source alone has it, at weight 1, and no other changes that module:
PEFT means this, and writes the base's own in its place. Whatever else is no sum, and refused. Reads facts alone:
whether equal facts are equal bytes is for those who hold the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

from compute_worker.combination import CombineSource
from lorry.errors import UnsupportedCombination
from lorry.format.facts import AdapterFacts, SavedModule, TrainedBias, TrainedTokens

Replacement = SavedModule | TrainedTokens | TrainedBias
# What is replaced, in words, and where.
Place = tuple[str, str]
_WORDS = {SavedModule: "the module", TrainedTokens: "the set of trained tokens", TrainedBias: "the bias"}


def replacements(facts: AdapterFacts) -> dict[Place, Replacement]:
    """All that an adapter puts in the place of the base's own."""
    found: list[Replacement] = [*facts.saved, *facts.tokens, *facts.biases]
    return {(_WORDS[type(one)], one.name): one for one in found}


def check_replacements(sources: Sequence[CombineSource]) -> None:
    """Raises UnsupportedCombination, naming the module and the sources, where one cannot be carried over."""
    replaced = [replacements(source.facts) for source in sources]
    for place in sorted({place for own in replaced for place in own}):
        holders = [source for source, own in zip(sources, replaced, strict=True) if place in own]
        if len(holders) == len(sources):
            _check_alike(place, sources, [own[place] for own in replaced])
        else:
            _check_alone(place, holders, sources)


def _check_alike(place: Place, sources: Sequence[CombineSource], found: Sequence[Replacement]) -> None:
    for source, one in zip(sources, found, strict=True):
        if one != found[0]:
            raise unlike(place, sources[0], source)


def unlike(place: Place, one: CombineSource, other: CombineSource) -> UnsupportedCombination:
    """Two sources replace the same in different ways."""
    return UnsupportedCombination(
        f"{_said(place)} is another in {one.digest} than in {other.digest}: what replaces the base's own is no sum; "
        "it is carried over where all sources have it alike, or one of them alone"
    )


def _check_alone(place: Place, holders: Sequence[CombineSource], sources: Sequence[CombineSource]) -> None:
    owner, *more = holders
    if more:
        raise UnsupportedCombination(
            f"{_said(place)} comes from {owner.digest} and {more[0].digest}, and not from all of the {len(sources)} "
            "sources: what replaces the base's own is no sum"
        )
    if owner.weight != 1:
        raise UnsupportedCombination(
            f"{_said(place)} comes from {owner.digest} alone, and a part of it has no meaning: expected weight 1, "
            f"got {owner.weight:g}"
        )
    for source in sources:
        if source is not owner and _changes(source.facts, place):
            raise UnsupportedCombination(
                f"{_said(place)} comes from {owner.digest}, and {source.digest} adapts the base's"
            )


def _changes(facts: AdapterFacts, place: Place) -> bool:
    """Whether an adapter changes what another one replaces."""
    what, name = place
    if what == _WORDS[TrainedBias]:  # a delta of the weight goes together with any bias
        return False
    return any(
        name == own for own in (*(module.name for module in facts.modules), *(at for _, at in replacements(facts)))
    )


def _said(place: Place) -> str:
    what, name = place
    return f"{name}: {what}"
