"""Lists, filters and lineage in the model.

Owns the order of every list and what each filter means. A page is what lies behind the last key that
was told, as things are now.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lorry.errors import AliasNotFound
from lorry.format.reference import Reference
from tests.stateful.model_catalogue import Catalogue
from tests.stateful.model_state import Adapter, Base, Key, Version
from tests.stateful.values import full

# A place in a list, and what is told there.
Row = tuple[tuple[Any, ...], tuple[Any, ...]]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Term(NamedTuple):
    """`field operator value`."""

    field: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f'{self.field}{self.operator}"{self.value}"'


class Listing(NamedTuple):
    """Which list: of adapters, versions, aliases, history, leases or bases. key: the adapter; alias: of a history."""

    kind: str
    key: Key = ("", "")
    alias: str = ""
    terms: tuple[Term, ...] = ()

    @property
    def filter(self) -> str:
        return " AND ".join(map(str, self.terms))


class Finding(Catalogue):
    """What CatalogService reads."""

    def page(self, listing: Listing, behind: tuple[Any, ...] | None, size: int) -> tuple[list[Row], bool]:
        """The rows of a page and whether there are more."""
        rows = sorted(self._rows(listing))
        if listing.kind == "history" and not rows and behind is None:
            raise AliasNotFound("")
        rows = [row for row in rows if behind is None or row[0] > behind]
        return rows[:size], len(rows) > size

    def all(self, listing: Listing) -> list[tuple[Any, ...]]:
        return [row for _, row in self.page(listing, None, 1_000)[0]]

    def _rows(self, listing: Listing) -> Iterable[Row]:
        if listing.kind == "bases":
            return [((base.name,), base_row(base)) for base in self.bases.values()]
        if listing.kind == "adapters":
            among = [a for a in self.alive() if not listing.key[0] or a.key[0] == listing.key[0]]
            hits = [a for a in among if all(self._holds(term, a, a.latest(), set(a.aliases)) for term in listing.terms)]
            return [(adapter.key, adapter_row(adapter)) for adapter in hits]
        adapter = self.adapter(listing.key)
        match listing.kind:
            case "versions":
                return [
                    ((-version.number,), version_row(adapter, version))
                    for version in adapter.versions.values()
                    if all(
                        self._holds(t, adapter, version, set(adapter.names_of(version.number))) for t in listing.terms
                    )
                ]
            case "aliases":
                return [((alias,), alias_row(adapter, alias, adapter.revision_of(alias))) for alias in adapter.aliases]
            case "history":
                moves = range(1, len(adapter.moves.get(listing.alias, [])) + 1)
                return [((-revision,), alias_row(adapter, listing.alias, revision)) for revision in moves]
            case _:
                return self._lease_rows(adapter)

    def _lease_rows(self, adapter: Adapter) -> list[Row]:
        held = [(holder, number) for holder, all_ in self.leases.items() for key, number in all_ if key == adapter.key]
        return [((h, number), (h, adapter.versions[number].digest, number)) for h, number in held]

    def _holds(self, term: Term, adapter: Adapter, version: Version | None, aliases: set[str]) -> bool:
        """Whether a term holds; one about a version does not where there is none."""
        field, sign, value = term
        equal = sign == "="
        if field == "name":
            same = adapter.key[1].startswith(value[:-1]) if value.endswith("*") else adapter.key[1] == value
            return same == equal
        if field == "alias":
            return (value in aliases) == equal
        if field.startswith("labels."):
            return (adapter.labels.get(field.removeprefix("labels.")) == value) == equal
        return version is not None and self._fact_holds(term, version)

    def _fact_holds(self, term: Term, version: Version) -> bool:
        field, sign, value = term
        manifest, equal = version.manifest, sign == "="
        match field:
            case "rank" | "size":
                return _COMPARE[sign](getattr(manifest, field), int(value))
            case "variant":
                return (manifest.variant == value) == equal
            case "module":
                return (value in {path.rpartition(".")[2] for path in manifest.target_modules}) == equal
            case "parent":
                return (value in manifest.parents) == equal
            case _:
                called = {base.base_id for base in self.bases.values() if base.called(value)}
                return (manifest.base_id in called) == equal

    def lineage(self, reference: Reference, depth: int) -> tuple[str, dict[str, Any], set[tuple[str, str]], bool]:
        """The root, nodes with what is told of them, edges, whether it was cut."""
        root = self.locate(reference)[1].digest
        edges = {(v.digest, parent) for _, v in self.everything() for parent in v.manifest.parents}
        told: set[tuple[str, str]] = set()
        nodes, up, down, cut = {root}, {root}, {root}, False
        for step in range(depth + 1):
            above = {edge for edge in edges if edge[0] in up}
            below = {edge for edge in edges if edge[1] in down}
            up, down = {parent for _, parent in above} - nodes, {child for child, _ in below} - nodes
            if step == depth:
                cut = bool(up or down)
                break
            nodes |= up | down
            told |= above | below
        return root, {digest: self._node(digest) for digest in nodes}, told, cut

    def _node(self, digest: str) -> tuple[tuple[str, ...], str]:
        homes = sorted((adapter.key, version.number) for adapter, version in self.twins(digest))
        base = self.twins(digest)[0][1].manifest.base_id if homes else ""
        return tuple(f"{full(key)}@{number}" for key, number in homes), base


def base_row(base: Base) -> tuple[Any, ...]:
    return (base.name, base.base_id, tuple(sorted(base.known_as)), base.derived_from, base.carry_over)


def adapter_row(adapter: Adapter) -> tuple[Any, ...]:
    latest = adapter.latest()
    newest = (
        (0, "", 0, "")
        if latest is None
        else (
            latest.number,
            latest.digest,
            latest.manifest.rank,
            latest.manifest.base_id,
        )
    )
    aliases = {alias: adapter.versions[number].digest for alias, number in adapter.aliases.items()}
    told = (adapter.description, sorted(adapter.labels.items()), adapter.revision, adapter.keep_last)
    return (*adapter.key, len(adapter.versions), *newest, sorted(aliases.items()), *told)


def version_row(adapter: Adapter, version: Version) -> tuple[Any, ...]:
    manifest = version.manifest
    hidden = (version.yank_reason, adapter.names_of(version.number), version.warnings)
    facts = (manifest.size, manifest.base_id, manifest.rank, manifest.parents)
    return (*adapter.key, version.number, version.digest, *hidden, *facts)


def alias_row(adapter: Adapter, alias: str, revision: int) -> tuple[Any, ...]:
    return (alias, *adapter.moves[alias][revision - 1], revision)
