"""A sequence of calls to a registry and to the model, which have to agree after each.

Owns the comparison of answers and errors, what is compared behind every call, and the end. The calls
are the rules of the classes that are built on this one.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from lorry.errors import LorryError, NotFound
from lorry.format.compatibility import CarryOver
from lorry.format.digest import digest_of
from lorry.format.reference import AdapterName, Reference
from tests.stateful import seen
from tests.stateful.model_finding import Listing, base_row
from tests.stateful.model_state import Base, Key
from tests.stateful.values import ADAPTERS, ALIASES, BASES, NO_DIGEST, Bundle, full
from tests.stateful.world import Ground, World

T = TypeVar("T")
# How a reference is written: by number, alias, digest or the bare name of the n-th version that there is, so
# that most references mean something; or an adapter and a number, alias or digest that need not exist.
Written = tuple[str, int]

adapters = st.sampled_from(ADAPTERS)
aliases = st.sampled_from(ALIASES)
_FORMS = ("number", "number", "digest", "digest", "alias", "bare", "stray")
references = st.tuples(st.sampled_from(_FORMS), st.integers(0, 11))
digests = st.tuples(st.just("digest"), st.integers(0, 11))
# The token of who heard nothing yet.
_FIRST = "0"


class Sequence(RuleBasedStateMachine):
    """One registry, one model, and the comparison."""

    _count = itertools.count()
    # What came of the calls that were compared, over all sequences: answers and classes of errors.
    outcomes: ClassVar[Counter[str]] = Counter()

    def __init__(self, ground: Ground, folder: Path, bundles: list[Bundle]) -> None:
        super().__init__()
        self.shelf = bundles
        self.folder = folder / str(next(self._count))
        self.world = World(ground, self.folder)
        self.model = deepcopy(ground.model)
        self.touched: Key = ADAPTERS[0]
        # How many of the model's events were heard, and the token behind the last of them.
        self.heard, self.token = 0, _FIRST
        # Whether the last call only read.
        self.asked = False

    def teardown(self) -> None:
        """Everything that is visible is whole, and every event was told; unless it was told before that they differ."""
        try:
            if sys.exception() is None:
                self._end()
        finally:
            self.world.close()

    def agree(self, real: Callable[[], T], model: Callable[[], T]) -> T | None:
        """Both do it; they answer the same or raise the same. None where they raised."""
        expected, came = _outcome(model), _outcome(real)
        assert came == expected, f"\nregistry: {came}\nmodel:    {expected}"
        self.outcomes[expected[0][0] if expected[0] else "answered"] += 1
        return came[1]

    def ask(self, real: Callable[[], T], model: Callable[[], T]) -> None:
        """As `agree`, of what only reads: the lists need not be compared behind it."""
        self.agree(real, model)
        self.asked = True

    def reference(self, written: Written) -> Reference:
        form, place = written
        there = self.model.everything()
        if form == "stray" or not there:
            return self._stray(place)
        adapter, version = there[place % len(there)]
        self.touched, name = adapter.key, AdapterName(*adapter.key)
        match form:
            case "number":
                return Reference(name, number=version.number)
            case "digest":
                return Reference(name, digest=version.digest)
            case "alias":
                return Reference(name, alias=ALIASES[place % len(ALIASES)])
            case _:
                return Reference(name)

    def _stray(self, place: int) -> Reference:
        self.touched = ADAPTERS[place % len(ADAPTERS)]
        name = AdapterName(*self.touched)
        forms = (
            Reference(name, number=1 + place // 2),
            Reference(name, digest=self.digest(place)),
            Reference(name, alias=ALIASES[place % len(ALIASES)]),
            Reference(name),
        )
        return forms[place % len(forms)]

    def digest(self, place: int) -> str:
        """One of the digests that there ever were, or one that never was."""
        known = self.model.known[-7:]
        return known[place] if place < len(known) else NO_DIGEST

    def register(self, place: int, name: str, known_as: set[str], derived_from: str, carry_over: CarryOver) -> None:
        base = Base(BASES[place].base_id, name, known_as, derived_from, str(carry_over))
        self.agree(
            lambda: seen.base(
                self.world.client.register_base_model(
                    name, BASES[place], known_as=known_as, derived_from=derived_from, carry_over=carry_over
                )
            ),
            lambda: base_row(self.model.register(base)),
        )

    def update_family(self, name: str, derived_from: str | None, carry_over: CarryOver) -> None:
        self.agree(
            lambda: seen.base(
                self.world.client.update_base_model(name, derived_from=derived_from, carry_over=carry_over)
            ),
            lambda: base_row(self.model.update_base(name, derived_from, str(carry_over))),
        )

    @invariant()
    def the_lists_agree(self) -> None:
        """All adapters with their aliases and newest versions; of the one that was touched everything."""
        asked, self.asked = self.asked, False
        if asked:
            return
        name, wanted = full(self.touched), [Listing("adapters")]
        calls: list[tuple[str, dict[str, Any]]] = [("ListAdapters", {})]
        with suppress(NotFound):
            self.model.adapter(self.touched)
            calls += [("ListVersions", {"adapter": name}), ("ListAliases", {"adapter": name})]
            wanted += [Listing("versions", self.touched), Listing("aliases", self.touched)]
        came = [seen.page(answer) for answer in self.world.calls(calls)]
        assert came == [self.model.all(listing) for listing in wanted]

    def hear(self, enough: Callable[[Any], bool]) -> None:
        """Go on watching from the last token; what comes is what the model told since."""
        told = self.world.watch(self.token, enough)
        expected = self.model.events[self.heard : self.heard + len(told)]
        assert [seen.event(event) for event in told] == expected
        self.heard, self.token = self.heard + len(told), told[-1].resume_token

    def _end(self) -> None:
        for digest, data in sorted(self.model.blobs.items()):
            if digest not in self.model.damaged:
                got = b"".join(bytes(piece.data) for piece in self.world.client.read(digest))
                assert (got, digest_of(got)) == (data, digest)
        # An event behind all others, so that one too many would show.
        name, policy = BASES[0].base_id, CarryOver.ALLOW
        if self.model.bases[name].carry_over == policy:
            policy = CarryOver.WARN
        self.update_family(name, None, policy)
        left = itertools.count(self.heard + 1)
        self.hear(lambda _: next(left) == len(self.model.events))


def _outcome(work: Callable[[], T]) -> tuple[tuple[str, str] | None, T | None]:
    """(None, answer), or (class and facts of the error, None)."""
    try:
        return None, work()
    except LorryError as error:
        facts = {key: error.metadata[key] for key in ("revision", "committed_bytes") if key in error.metadata}
        return (type(error).__name__, str(facts)), None
