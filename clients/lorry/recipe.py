"""A combination's recipe as people keep it: what to combine, how, and of which versions exactly.

Owns its plain form (a document of dictionaries and lists, for YAML or JSON) and the way to it from the
registry's lineage. Sources are references by digest, so that the same recipe means the same adapter for
good. Does not know which methods there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from lorry.combination import PARAMETERS, Parameter
from lorry.errors import InvalidCombination, VersionNotFound
from lorry.format.reference import Reference, parse_reference
from lorry.v1.catalog_pb2 import GetLineageResponse

_FIELDS = {"method", "parameters", "sources"}
_SOURCE_FIELDS = {"adapter", "weight"}


@dataclass(frozen=True, slots=True)
class WrittenRecipe:
    """What WorkerClient.combine takes: method, its parameters by name, (reference, weight) of each source."""

    method: str
    parameters: dict[str, Parameter]
    sources: list[tuple[str, float]]

    def document(self) -> dict[str, object]:
        """As dictionaries and lists; `read` takes it back."""
        sources = [{"adapter": adapter, "weight": weight} for adapter, weight in self.sources]
        return {"method": self.method, "parameters": dict(self.parameters), "sources": sources}


def read(document: object) -> WrittenRecipe:
    """The recipe that a document says; a weight that is left out is 1. Raises InvalidCombination."""
    fields = _fields(document, _FIELDS, "a recipe")
    sources = fields.get("sources")
    if not isinstance(sources, list):
        raise InvalidCombination(f"recipe: expected sources to be a list, got {str(sources)[:80]!r}")
    parameters = fields.get("parameters") or {}
    if not isinstance(parameters, dict) or not parameters.keys() <= PARAMETERS:
        raise InvalidCombination(
            f"recipe: expected parameters of {', '.join(sorted(PARAMETERS))}, got {str(parameters)[:80]}"
        )
    return WrittenRecipe(str(fields.get("method")), parameters, [_source(source) for source in sources])


def written(reference: str, lineage: GetLineageResponse) -> WrittenRecipe:
    """The recipe of a version out of its lineage, see RegistryClient.recipe."""
    version, *others = lineage.nodes
    if not version.recipe.method:
        raise InvalidCombination(f"{reference} has no recipe: expected a version that was made by combining others")
    homes = {node.digest: node.published_as[0] for node in others if node.published_as}
    lost = [source.digest for source in version.recipe.sources if source.digest not in homes]
    if lost:
        raise VersionNotFound(f"{reference} was made out of {', '.join(lost)}, deleted since or not for you")
    sources = [
        (str(Reference(parse_reference(homes[source.digest]).adapter, digest=source.digest)), source.weight)
        for source in version.recipe.sources
    ]
    return WrittenRecipe(version.recipe.method, json.loads(version.recipe.parameters_json), sources)


def _source(document: object) -> tuple[str, float]:
    fields = _fields(document, _SOURCE_FIELDS, "a source")
    try:
        # YAML takes a bare 1e-3 for a text.
        return str(fields["adapter"]), float(str(fields.get("weight", 1)))
    except (KeyError, ValueError) as error:
        raise InvalidCombination(f"recipe: expected a source's adapter and a number as weight, got {fields}") from error


def _fields(document: object, known: set[str], what: str) -> Mapping[str, object]:
    if not isinstance(document, dict) or not document.keys() <= known:
        got = sorted(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise InvalidCombination(f"recipe: expected {what} with {', '.join(sorted(known))}, got {got}")
    return document
