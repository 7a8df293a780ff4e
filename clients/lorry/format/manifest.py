"""The manifest: the immutable description of a version, whose digest is the version's identity.

Owns its fields and its canonical JSON. Does not know where a version is stored, its number, its
aliases or when it was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import TypeVar

from lorry.errors import InvalidAdapter, InvalidDigest
from lorry.format.digest import check_digest, digest_of
from lorry.format.facts import AdapterFacts, Feature, Variant
from lorry.format.strict_json import Limits, parse_object

_T = TypeVar("_T")

SCHEMA = 1
# A configuration and the paths of 2,048 modules, each at its own limit, escaped.
_LIMITS = Limits(size=1 << 22, depth=4, values=1 << 15)


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a bundle; its bytes are the blob `digest`."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class RecipeSource:
    """A source of a combination and its weight."""

    digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a version was combined. `parameters_json` is a canonical JSON object."""

    method: str
    parameters_json: str
    sources: tuple[RecipeSource, ...]
    tool: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version is; see Manifest in types.proto for the fields."""

    files: tuple[ManifestFile, ...]
    base_id: str
    config_json: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    variant: str
    parents: tuple[str, ...] = ()
    recipe: Recipe | None = None
    features: tuple[str, ...] = ()
    schema: int = SCHEMA

    def fields(self) -> dict[str, object]:
        """Every field by its name, as JSON has them; features where there are any, so that others keep the
        digests of before there were features.
        """
        # Not asdict of it all: that copies each of hundreds of texts.
        fields: dict[str, object] = {field.name: getattr(self, field.name) for field in dataclass_fields(self)}
        fields["files"] = tuple(asdict(file) for file in self.files)
        fields["recipe"] = None if self.recipe is None else asdict(self.recipe)
        if not self.features:
            del fields["features"]
        return fields

    def canonical_json(self) -> bytes:
        """Sorted keys, no white space, UTF-8: equal manifests are equal bytes."""
        return canonical_json(self.fields()).encode()

    @property
    def digest(self) -> str:
        """`sha256:...` of the canonical JSON."""
        return digest_of(self.canonical_json())

    @property
    def size(self) -> int:
        """Sum of the file sizes in bytes."""
        return sum(file.size for file in self.files)


def build_manifest(
    files: Iterable[ManifestFile],
    facts: AdapterFacts,
    base_id: str,
    parents: Iterable[str] = (),
    recipe: Recipe | None = None,
) -> Manifest:
    """The manifest of a checked bundle: equal bytes, base and lineage give an equal manifest.

    Files are put in order of name; parents stay in the order given. Raises InvalidDigest.
    """
    return Manifest(
        files=tuple(sorted(files, key=lambda file: file.name)),
        base_id=check_digest(base_id),
        config_json=facts.config_json,
        rank=facts.rank,
        alpha=facts.alpha,
        target_modules=facts.changed,
        variant=facts.variant.value,
        parents=tuple(check_digest(parent) for parent in parents),
        recipe=recipe,
        features=tuple(feature.value for feature in facts.features),
    )


def manifest_from_json(data: bytes) -> Manifest:
    """The manifest that these canonical bytes spell; any other spelling is refused.

    Raises InvalidAdapter.
    """
    fields = parse_object(data, "manifest", _LIMITS)
    try:
        manifest = _manifest(fields)
        same = manifest.canonical_json() == data
    except (TypeError, KeyError, ValueError, InvalidDigest) as error:
        raise InvalidAdapter(f"manifest: expected the fields of schema {SCHEMA}: {str(error)[:200]}") from error
    if not same or manifest.schema != SCHEMA:
        raise InvalidAdapter(f"manifest: expected canonical JSON of schema {SCHEMA}, got another spelling")
    return manifest


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value. Raises ValueError on NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _manifest(fields: Mapping[str, object]) -> Manifest:
    # Fields that are not asked for here show up as another spelling.
    recipe = fields["recipe"]
    return Manifest(
        files=tuple(
            ManifestFile(_get(file, "name", str), check_digest(_get(file, "digest", str)), _get(file, "size", int))
            for file in _objects(fields, "files")
        ),
        base_id=check_digest(_get(fields, "base_id", str)),
        config_json=_get(fields, "config_json", str),
        rank=_get(fields, "rank", int),
        alpha=_get(fields, "alpha", float),
        target_modules=_texts(fields, "target_modules"),
        variant=Variant(_get(fields, "variant", str)).value,
        parents=tuple(check_digest(parent) for parent in _texts(fields, "parents")),
        recipe=None if recipe is None else _recipe(_get(fields, "recipe", dict)),
        features=tuple(Feature(text).value for text in _texts({"features": [], **fields}, "features")),
        schema=_get(fields, "schema", int),
    )


def _recipe(fields: Mapping[str, object]) -> Recipe:
    return Recipe(
        method=_get(fields, "method", str),
        parameters_json=_get(fields, "parameters_json", str),
        sources=tuple(
            RecipeSource(check_digest(_get(source, "digest", str)), _get(source, "weight", float))
            for source in _objects(fields, "sources")
        ),
        tool=_get(fields, "tool", str),
    )


def _get(fields: Mapping[str, object], name: str, kind: type[_T]) -> _T:
    value = fields[name]
    if type(value) is not kind:
        raise TypeError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _objects(fields: Mapping[str, object], name: str) -> list[dict[str, object]]:
    return [_get({name: entry}, name, dict) for entry in _get(fields, name, list)]


def _texts(fields: Mapping[str, object], name: str) -> tuple[str, ...]:
    return tuple(_get({name: entry}, name, str) for entry in _get(fields, name, list))
