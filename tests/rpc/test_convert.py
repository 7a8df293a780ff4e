from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from lorry.errors import InvalidInput
from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.facts import Variant
from lorry.format.manifest import Manifest, ManifestFile, Recipe, RecipeSource
from lorry.rpc import convert
from lorry.v1 import types_pb2 as pb

DIGEST = "sha256:" + "ab" * 32


def manifest(**changes: Any) -> Manifest:
    fields = {
        "files": (ManifestFile("adapter_config.json", DIGEST, 7), ManifestFile("adapter_model.safetensors", DIGEST, 9)),
        "base_id": DIGEST,
        "config_json": '{"r":8}',
        "rank": 8,
        "alpha": 0.1,
        "target_modules": ("model.layers.0.q_proj",),
        "variant": "rslora",
    }
    return Manifest(**(fields | changes))


RECIPE = Recipe("ties", '{"density":0.3}', (RecipeSource(DIGEST, -0.1), RecipeSource(DIGEST, 1e-17)), "lorry 0.1.0")


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("recipe", [None, RECIPE])
def test_a_manifest_keeps_its_digest_over_the_wire(variant: Variant, recipe: Recipe | None) -> None:
    sent = manifest(variant=variant.value, recipe=recipe, parents=(DIGEST,), features=("alora", "bias"))
    wire = pb.Manifest.FromString(convert.manifest_to_pb(sent).SerializeToString())
    received = convert.manifest_from_pb(wire)
    assert received == sent
    assert received.digest == sent.digest


def test_a_base_keeps_its_facts_over_the_wire() -> None:
    modules = tuple(BaseModule(f"m.{kind}", kind, 3, 5, 7 * (kind is ModuleKind.EXPERTS)) for kind in ModuleKind)
    facts = BaseFacts(DIGEST, DIGEST, "llama", 49_152, modules, "int8")
    sent = convert.base_to_pb(facts, "smol", ["HuggingFaceTB/SmolLM2"], DIGEST)
    wire = pb.BaseModel.FromString(sent.SerializeToString())
    assert convert.base_from_pb(wire) == facts
    assert (wire.name, list(wire.known_as), wire.derived_from) == ("smol", ["HuggingFaceTB/SmolLM2"], DIGEST)


def test_an_unset_quantisation_means_none() -> None:
    assert convert.base_from_pb(pb.BaseModel(base_id=DIGEST)).quantization == "none"


@pytest.mark.parametrize("number", [0, 99])
def test_an_unknown_variant_or_kind_is_refused(number: int) -> None:
    with pytest.raises(InvalidInput, match=f"expected a variant among lora, rslora, dora, got number {number}"):
        convert.variant_from_pb(number)
    with pytest.raises(InvalidInput, match="expected a kind among"):
        convert.base_from_pb(pb.BaseModel(modules=[pb.Module(name="x", kind=number)]))


def test_a_moment_keeps_its_microseconds_and_comes_back_in_utc() -> None:
    moment = datetime(2024, 2, 29, 12, 0, 0, 123_456, timezone(timedelta(hours=2)))
    back = convert.timestamp_from_pb(convert.timestamp_to_pb(moment))
    assert back == moment
    assert back.tzinfo is UTC
