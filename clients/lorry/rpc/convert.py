"""The nouns of types.proto as the values of lorry.format, and back.

Owns the translation, spelling of enumerations included. Does not judge what a value means: a manifest
is checked against its digest by whoever received it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from lorry.errors import InvalidInput
from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.compatibility import CarryOver
from lorry.format.facts import Variant
from lorry.format.findings import Finding
from lorry.format.manifest import Manifest, ManifestFile, Recipe, RecipeSource
from lorry.v1 import types_pb2 as pb

_VARIANTS: Final = {
    Variant.LORA: pb.VARIANT_LORA,
    Variant.RSLORA: pb.VARIANT_RSLORA,
    Variant.DORA: pb.VARIANT_DORA,
}
_VARIANTS_BACK: Final = {number: variant for variant, number in _VARIANTS.items()}
_KINDS: Final = {
    ModuleKind.LINEAR: pb.MODULE_KIND_LINEAR,
    ModuleKind.EMBEDDING: pb.MODULE_KIND_EMBEDDING,
    ModuleKind.CONV1D: pb.MODULE_KIND_CONV1D,
    ModuleKind.EXPERTS: pb.MODULE_KIND_EXPERTS,
}
_KINDS_BACK: Final = {number: kind for kind, number in _KINDS.items()}
_POLICIES: Final = {
    CarryOver.ALLOW: pb.CARRY_OVER_ALLOW,
    CarryOver.WARN: pb.CARRY_OVER_WARN,
    CarryOver.REFUSE: pb.CARRY_OVER_REFUSE,
}
_POLICIES_BACK: Final = {number: policy for policy, number in _POLICIES.items()} | {
    pb.CARRY_OVER_UNSPECIFIED: CarryOver.REFUSE
}
_NO_QUANTIZATION: Final = "none"


def timestamp_to_pb(moment: datetime) -> Timestamp:
    """A moment with a time zone."""
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC))
    return stamp


def span_from_pb(span: Duration) -> timedelta:
    """A duration of the contract; one that Python has no room for is the longest or shortest that it has."""
    try:
        return span.ToTimedelta()
    except (OverflowError, ValueError):
        return timedelta.max if span.seconds > 0 else timedelta.min


def timestamp_from_pb(stamp: Timestamp) -> datetime:
    """A moment in UTC. Raises InvalidInput on one before the year 1 or behind the year 9999."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"time: expected a moment in the years 1 to 9999, got {stamp.seconds} s") from error


def variant_to_pb(variant: str) -> pb.Variant.ValueType:
    """Variant by its spelling in a manifest. Raises ValueError where there is none such."""
    return _VARIANTS[Variant(variant)]


def variant_from_pb(variant: pb.Variant.ValueType) -> Variant:
    """Raises InvalidInput on VARIANT_UNSPECIFIED and on what this release does not know."""
    if variant not in _VARIANTS_BACK:
        raise InvalidInput(f"expected a variant among {', '.join(Variant)}, got number {variant}")
    return _VARIANTS_BACK[variant]


def file_to_pb(file: ManifestFile) -> pb.File:
    """One file of a bundle."""
    return pb.File(name=file.name, digest=file.digest, size_bytes=file.size)


def file_from_pb(file: pb.File) -> ManifestFile:
    """One file of a bundle."""
    return ManifestFile(name=file.name, digest=file.digest, size=file.size_bytes)


def recipe_to_pb(recipe: Recipe) -> pb.Recipe:
    """How a version was combined."""
    sources = [pb.RecipeSource(digest=source.digest, weight=source.weight) for source in recipe.sources]
    return pb.Recipe(method=recipe.method, parameters_json=recipe.parameters_json, sources=sources, tool=recipe.tool)


def recipe_from_pb(recipe: pb.Recipe) -> Recipe:
    """How a version was combined."""
    sources = tuple(RecipeSource(digest=source.digest, weight=source.weight) for source in recipe.sources)
    return Recipe(method=recipe.method, parameters_json=recipe.parameters_json, sources=sources, tool=recipe.tool)


def manifest_to_pb(manifest: Manifest) -> pb.Manifest:
    """The immutable description of a version."""
    return pb.Manifest(
        schema=manifest.schema,
        files=[file_to_pb(file) for file in manifest.files],
        base_id=manifest.base_id,
        config_json=manifest.config_json,
        rank=manifest.rank,
        alpha=manifest.alpha,
        target_modules=manifest.target_modules,
        variant=variant_to_pb(manifest.variant),
        parents=manifest.parents,
        recipe=None if manifest.recipe is None else recipe_to_pb(manifest.recipe),
        features=manifest.features,
    )


def manifest_from_pb(manifest: pb.Manifest) -> Manifest:
    """Equal, digest included, to the value that was sent. Raises InvalidInput on an unknown variant."""
    return Manifest(
        files=tuple(file_from_pb(file) for file in manifest.files),
        base_id=manifest.base_id,
        config_json=manifest.config_json,
        rank=manifest.rank,
        alpha=manifest.alpha,
        target_modules=tuple(manifest.target_modules),
        variant=variant_from_pb(manifest.variant),
        parents=tuple(manifest.parents),
        recipe=recipe_from_pb(manifest.recipe) if manifest.HasField("recipe") else None,
        features=tuple(manifest.features),
        schema=manifest.schema,
    )


def carry_over_from_pb(policy: pb.CarryOver.ValueType) -> CarryOver:
    """Unset means REFUSE. Raises InvalidInput on what this release does not know."""
    if policy not in _POLICIES_BACK:
        raise InvalidInput(f"carry_over: expected a policy among {', '.join(CarryOver)}, got number {policy}")
    return _POLICIES_BACK[policy]


def carry_over_to_pb(policy: CarryOver) -> pb.CarryOver.ValueType:
    """Whether adapters of a family carry over."""
    return _POLICIES[policy]


def base_to_pb(
    facts: BaseFacts,
    name: str,
    known_as: Iterable[str] = (),
    derived_from: str = "",
    carry_over: CarryOver = CarryOver.REFUSE,
) -> pb.BaseModel:
    """A base model under its name, module table included, without a time."""
    return pb.BaseModel(
        base_id=facts.base_id,
        name=name,
        known_as=known_as,
        model_type=facts.model_type,
        vocab_size=facts.vocab_size,
        quantization=facts.quantization,
        derived_from=derived_from,
        carry_over=_POLICIES[carry_over],
        architecture_id=facts.architecture_id,
        modules=[_module_to_pb(module) for module in facts.modules],
    )


def base_from_pb(base: pb.BaseModel) -> BaseFacts:
    """Identity and shape; an unset quantisation means `none`. Raises InvalidInput on an unknown kind."""
    return BaseFacts(
        base_id=base.base_id,
        architecture_id=base.architecture_id,
        model_type=base.model_type,
        vocab_size=base.vocab_size,
        modules=tuple(_module_from_pb(module) for module in base.modules),
        quantization=base.quantization or _NO_QUANTIZATION,
    )


def finding_to_pb(finding: Finding) -> pb.Finding:
    """One reason or remark of a verdict."""
    return pb.Finding(code=finding.code.value, message=finding.message, module=finding.module, warning=finding.warning)


def _module_to_pb(module: BaseModule) -> pb.Module:
    return pb.Module(
        name=module.name,
        kind=_KINDS[module.kind],
        in_features=module.in_features,
        out_features=module.out_features,
        experts=module.experts or None,
    )


def _module_from_pb(module: pb.Module) -> BaseModule:
    if module.kind not in _KINDS_BACK:
        kinds = ", ".join(ModuleKind)
        raise InvalidInput(f"module {module.name[:200]!r}: expected a kind among {kinds}, got number {module.kind}")
    sizes = module.in_features, module.out_features, module.experts
    return BaseModule(module.name, _KINDS_BACK[module.kind], *sizes)
