"""Lineage in the store: what a version was made out of, and what was made out of it.

Owns the walk, one generation a query in each direction, and what of it the caller may see: a parent
that it may not read is a digest, which the child's manifest tells anyway; a child that it may not
read is not told at all; nothing is followed through either. Does not write.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from adapter_registry.domain.records import Lineage, LineageNode
from adapter_registry.store.database import Database
from adapter_registry.store.models import AdapterRow, LineageRow, VersionRow
from adapter_registry.store.reading import locate, read_manifest, readable
from lorry.format.reference import Reference

# The contract's bounds: an answer of so many nodes with their recipes stays below a message's limit.
_MAX_NODES = 1_000
_MAX_EDGES = 10_000
# A version may be published under any number of names.
_MAX_PLACES = 20

_Edge = tuple[str, str]


class Lineages:
    """The part of the catalogue that knows who was made out of whom; see Catalog."""

    _database: Database

    def get_lineage(self, reference: Reference, depth: int) -> Lineage:
        """See Catalog."""
        with self._database.read() as session:
            _, version = locate(session, reference)
            walk = _Walk(session, version.digest)
            walk.go(depth)
            return Lineage(tuple(_nodes(session, walk.nodes)), tuple(walk.edges), walk.truncated)


class _Walk:
    """What was found so far: nodes in order of distance, (child, parent) edges as they were met."""

    def __init__(self, session: Session, root: str) -> None:
        self._session = session
        self.nodes: dict[str, None] = {root: None}
        self.edges: dict[_Edge, None] = {}
        self.truncated = False

    def go(self, depth: int) -> None:
        """Follow both directions for so many generations, and look whether there is one more."""
        up = down = list(self.nodes)
        for _ in range(depth):
            up, down = self._take(self._above(up), 1), self._take(self._below(down), 0)
            if self.truncated or not (up or down):
                return
        beyond = {parent for _, parent in self._above(up)} | {child for child, _ in self._below(down)}
        self.truncated = not beyond <= self.nodes.keys()

    def _take(self, edges: list[_Edge], far_end: int) -> list[str]:
        """Keep edges with the versions at their far ends; those that are new."""
        new = []
        for edge in edges:
            known = edge[far_end] in self.nodes
            if len(self.edges) == _MAX_EDGES or (not known and len(self.nodes) == _MAX_NODES):
                self.truncated = True
                break
            self.edges[edge] = None
            if not known:
                self.nodes[edge[far_end]] = None
                new.append(edge[far_end])
        return new

    def _above(self, children: list[str]) -> list[_Edge]:
        return self._edges(VersionRow.digest.in_(children)) if children else []

    def _below(self, parents: list[str]) -> list[_Edge]:
        return self._edges(LineageRow.parent.in_(parents)) if parents else []

    def _edges(self, which: ColumnElement[bool]) -> list[_Edge]:
        """Those whose child the caller may read, in order; one more than are told at most."""
        query = select(VersionRow.digest, LineageRow.parent).distinct()
        query = query.join(LineageRow, LineageRow.child == VersionRow.id)
        query = query.join(AdapterRow, AdapterRow.id == VersionRow.adapter)
        query = query.where(which, ~AdapterRow.deleted, readable()).order_by(VersionRow.digest, LineageRow.parent)
        return [(child, parent) for child, parent in self._session.execute(query.limit(_MAX_EDGES + 1))]


def _nodes(session: Session, digests: Collection[str]) -> list[LineageNode]:
    names = (AdapterRow.namespace, AdapterRow.name, VersionRow.number)
    place = func.row_number().over(partition_by=VersionRow.digest, order_by=names).label("place")
    query = select(VersionRow.id, *names, place).join(AdapterRow, AdapterRow.id == VersionRow.adapter)
    places = query.where(VersionRow.digest.in_(digests), ~AdapterRow.deleted, readable()).subquery()
    told = select(VersionRow, places).join(places, places.c.id == VersionRow.id).where(places.c.place <= _MAX_PLACES)
    found: dict[str, list[tuple[VersionRow, str]]] = {}
    for version, _, namespace, name, number, _ in session.execute(told.order_by(places.c.place)):
        found.setdefault(version.digest, []).append((version, f"{namespace}/{name}@{number}"))
    return [_node(digest, found.get(digest, [])) for digest in digests]


def _node(digest: str, places: list[tuple[VersionRow, str]]) -> LineageNode:
    if not places:
        return LineageNode(digest)
    return LineageNode(
        digest=digest,
        published_as=tuple(place for _, place in places),
        manifest=read_manifest(places[0][0].manifest),
        created=min(version.created for version, _ in places),
    )
