"""`lorry lineage`: what a version was made out of, and what was made out of it, as a tree.

Owns how the graph is drawn: a version that is reached on several ways is drawn with all that is behind
it once, and by name alone from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, Reference, registry

if TYPE_CHECKING:
    from rich.tree import Tree

    from lorry.v1.catalog_pb2 import GetLineageResponse, LineageNode

# Names that a version is drawn with; the others are a number.
_NAMES = 3

# (digest of the other end, what the edge says)
_Edge = tuple[str, str]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(lineage)


def lineage(
    ctx: typer.Context,
    reference: Reference,
    *,
    depth: Annotated[int, typer.Option(min=1, max=100, help="Generations to follow in each direction.")] = 10,
    as_json: Json = False,
) -> None:
    """Draw where a version comes from and what was made out of it."""
    with registry(ctx) as client:
        found = client.lineage(reference, depth=depth)
    if as_json:
        output.say_json(found)
        return
    output.show_tree(_drawn(found))
    if found.truncated:
        output.note("there is more than this")


def _drawn(found: GetLineageResponse) -> Tree:
    from rich.tree import Tree

    graph = _Graph(found)
    root = found.nodes[0].digest
    tree = Tree(graph.title(root))
    for heading, edges in (("made out of", graph.parents), ("made into", graph.children)):
        if any(edges(root)):
            graph.draw(tree.add(heading), root, edges, {root})
    return tree


class _Graph:
    """The answer, by digest."""

    def __init__(self, found: GetLineageResponse) -> None:
        self._nodes = {node.digest: node for node in found.nodes}
        self._edges = [(edge.child, edge.parent) for edge in found.edges]

    def title(self, digest: str) -> str:
        """The names of a version and its digest."""
        names = self._nodes[digest].published_as
        shown = " ".join(names[:_NAMES]) or "(deleted, or not for you)"
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        return output.printable(f"{shown}{more}  {output.short(digest)}")

    def parents(self, digest: str) -> Iterator[_Edge]:
        """What a version was made out of."""
        return ((parent, _means(self._nodes[child], parent)) for child, parent in self._edges if child == digest)

    def children(self, digest: str) -> Iterator[_Edge]:
        """What was made out of a version."""
        return ((child, _means(self._nodes[child], parent)) for child, parent in self._edges if parent == digest)

    def draw(self, tree: Tree, digest: str, edges: Callable[[str], Iterator[_Edge]], drawn: set[str]) -> None:
        """Add what the edges lead to, without recursion: a line of versions may be long."""
        left = [(tree, digest)]
        while left:
            branch, below = left.pop()
            for other, means in edges(below):
                again = other in drawn
                added = branch.add(f"{means}{self.title(other)}{'  (as above)' if again else ''}")
                if not again:
                    drawn.add(other)
                    left.append((added, other))


def _means(child: LineageNode, parent: str) -> str:
    """The method and the weight of a source; nothing where the child was trained on."""
    weights = [source.weight for source in child.recipe.sources if source.digest == parent]
    return output.printable(f"{child.recipe.method} {weights[0]:g}  ") if weights else ""
