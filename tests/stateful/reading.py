"""The rules that read: references, lists in pages, lineage, verdicts, files, events.

Owns a list that is read page by page while other rules write.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from lorry.errors import CorruptBlob
from tests.stateful import seen
from tests.stateful.model_finding import Listing, Term, base_row, version_row
from tests.stateful.sequence import Sequence, Written, adapters, aliases, references
from tests.stateful.values import BASE_NAMES, BUNDLE_COUNT, KNOWN_AS, NAMESPACES, NO_DIGEST, full

_ORDERS = st.sampled_from(("=", "!=", "<", "<=", ">", ">="))
_EQUALITY = st.sampled_from(("=", "!="))
_FACTS = (
    st.builds(Term, st.just("rank"), _ORDERS, st.sampled_from(("2", "3", "4")))
    | st.builds(Term, st.just("size"), _ORDERS, st.sampled_from(("0", "2500", "2600", "2700")))
    | st.builds(Term, st.just("variant"), _EQUALITY, st.sampled_from(("lora", "rslora", "dora")))
    | st.builds(Term, st.just("module"), _EQUALITY, st.sampled_from(("q_proj", "down_proj", "proj")))
    | st.builds(Term, st.just("base"), _EQUALITY, st.sampled_from((*BASE_NAMES, *KNOWN_AS)))
    | st.builds(Term, st.just("alias"), _EQUALITY, aliases)
    | st.builds(Term, st.just("parent"), _EQUALITY, st.sampled_from(("0", "1", "2", "9")))
)
_NAMES = st.builds(Term, st.just("name"), _EQUALITY, st.sampled_from(("pirate", "pi*", "*", "other"))) | st.builds(
    Term, st.sampled_from(("labels.team", "labels.kind")), _EQUALITY, st.sampled_from(("sea", "air", "format"))
)
_OF_ADAPTERS = st.lists(_FACTS | _NAMES, max_size=2).map(tuple)
_OF_VERSIONS = st.lists(_FACTS, max_size=2).map(tuple)
listings = (
    st.builds(
        Listing, st.just("adapters"), st.sampled_from(("", *NAMESPACES)).map(lambda n: (n, "")), terms=_OF_ADAPTERS
    )
    | st.builds(Listing, st.just("versions"), adapters, terms=_OF_VERSIONS)
    | st.builds(Listing, st.sampled_from(("aliases", "leases", "bases")), adapters)
    | st.builds(Listing, st.just("history"), adapters, aliases)
)
_METHODS = {
    "adapters": "ListAdapters",
    "versions": "ListVersions",
    "aliases": "ListAliases",
    "history": "ListAliases",
    "leases": "ListLeases",
    "bases": "ListBaseModels",
}


class Reading(Sequence):
    """What a caller can find out."""

    listing: Listing | None = None
    behind: tuple[Any, ...] | None = None
    next_page = ""

    @rule(written=references)
    def resolve(self, written: Written) -> None:
        reference = self.reference(written)
        self.ask(
            lambda: seen.version(self.world.client.resolve(str(reference))),
            lambda: version_row(*self.model.resolve(reference)),
        )

    @rule(written=references)
    def get_version(self, written: Written) -> None:
        reference = self.reference(written)
        self.ask(
            lambda: seen.version(self.world.client.version(str(reference))),
            lambda: version_row(*self.model.locate(reference)),
        )

    @rule(name=st.sampled_from((*BASE_NAMES, *KNOWN_AS, NO_DIGEST)))
    def get_base(self, name: str) -> None:
        self.ask(lambda: seen.base(self.world.client.base_model(name)), lambda: base_row(self.model.base(name)))

    @rule(listing=listings, size=st.integers(1, 3))
    def begin_a_list(self, listing: Listing, size: int) -> None:
        """A list of which the next pages are read later, with others' writes in between."""
        terms = [t._replace(value=self.digest(int(t.value))) if t.field == "parent" else t for t in listing.terms]
        self.listing, self.behind, self.next_page = listing._replace(terms=tuple(terms)), None, ""
        self._page(size)

    @precondition(lambda self: self.next_page)
    @rule(size=st.integers(1, 3))
    def go_on_with_the_list(self, size: int) -> None:
        self._page(size)

    def _page(self, size: int) -> None:
        """The next page; where it is the last one, or an error, the list is done."""
        listing, token = self.listing, self.next_page
        assert listing is not None
        self.next_page = ""

        def real() -> tuple[Any, bool]:
            answer = self.world.call(_METHODS[listing.kind], page_size=size, page_token=token, **_scope(listing))
            self.next_page = answer.next_page_token
            return seen.page(answer), bool(self.next_page)

        def model() -> tuple[Any, bool]:
            rows, more = self.model.page(listing, self.behind, size)
            self.behind = rows[-1][0] if rows else self.behind
            return [row for _, row in rows], more

        self.ask(real, model)

    @rule(written=references, depth=st.integers(1, 3))
    def lineage(self, written: Written, depth: int) -> None:
        reference = self.reference(written)
        self.ask(
            lambda: seen.lineage(self.world.client.lineage(str(reference), depth=depth)),
            lambda: self.model.lineage(reference, depth),
        )

    @rule(written=references)
    def verdicts(self, written: Written) -> None:
        reference = self.reference(written)

        def model() -> Any:
            _, version = self.model.locate(reference)
            bases = sorted(self.model.bases.values(), key=lambda base: base.name)
            return [(base.name, *self.model.verdict(version, base)) for base in bases]

        self.ask(lambda: [(v.base_model, *seen.verdict(v)) for v in self.world.client.verdicts(str(reference))], model)

    @rule(written=references, base=st.sampled_from((*BASE_NAMES, *KNOWN_AS)))
    def check_compatibility(self, written: Written, base: str) -> None:
        reference = self.reference(written)

        def model() -> Any:
            _, version = self.model.locate(reference)
            return self.model.verdict(version, self.model.base(base))

        self.ask(lambda: seen.verdict(self.world.client.check_compatibility(str(reference), base)), model)

    @rule(written=references)
    def pull(self, written: Written) -> None:
        """What comes are the files that were pushed, byte for byte."""
        reference = self.reference(written)

        def real() -> dict[str, bytes]:
            with TemporaryDirectory(dir=self.folder) as into:
                self.world.client.pull(str(reference), Path(into, "adapter"))
                return {path.name: path.read_bytes() for path in Path(into, "adapter").glob("adapter_*")}

        def model() -> dict[str, bytes]:
            _, version = self.model.resolve(reference)
            if not all(self.model.there(file.digest) for file in version.manifest.files):
                raise CorruptBlob("")
            return {file.name: self.model.blobs[file.digest] for file in version.manifest.files}

        self.ask(real, model)

    @rule(
        place=st.integers(0, BUNDLE_COUNT - 1),
        file=st.integers(0, 1),
        offset=st.sampled_from((0, 1, 600, 3_000)),
        limit=st.sampled_from((0, 1, 700)),
    )
    def read_a_blob(self, place: int, file: int, offset: int, limit: int) -> None:
        digest = self.shelf[place].files[file].digest
        self.ask(
            lambda: b"".join(bytes(p.data) for p in self.world.client.read(digest, offset=offset, limit=limit)),
            lambda: self.model.read(digest, offset, limit),
        )

    @precondition(lambda self: self.heard < len(self.model.events))
    @rule(more=st.integers(1, 10))
    def watch_on(self, more: int) -> None:
        """Resume behind the last event that was heard."""
        wanted = self.model.events[self.heard : self.heard + more]
        heard: list[object] = []
        self.hear(lambda event: heard.append(event) or len(heard) == len(wanted))


def _scope(listing: Listing) -> dict[str, str]:
    if listing.kind == "bases":
        return {}
    if listing.kind == "adapters":
        return {"namespace": listing.key[0], "filter": listing.filter}
    more = {"history": {"history_of": listing.alias}, "versions": {"filter": listing.filter}}
    return {"adapter": full(listing.key), **more.get(listing.kind, {})}
