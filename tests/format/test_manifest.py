"""The manifest: one spelling, one digest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry.errors import InvalidAdapter, InvalidDigest
from lorry.format.bundle import check_bundle
from lorry.format.digest import digest_of
from lorry.format.facts import Feature
from lorry.format.manifest import (
    Manifest,
    ManifestFile,
    Recipe,
    RecipeSource,
    build_manifest,
    canonical_json,
    manifest_from_json,
)
from tests.support.adapters import write_adapter

BASE_ID = digest_of(b"base")
MANIFEST = Manifest(
    files=(ManifestFile("adapter_config.json", digest_of(b"c"), 1), ManifestFile("README.md", digest_of(b"r"), 1)),
    base_id=BASE_ID,
    config_json='{"r":8}',
    rank=8,
    alpha=16.0,
    target_modules=("model.layers.0.self_attn.q_proj",),
    variant="lora",
    parents=(digest_of(b"p"),),
    recipe=Recipe("ties", '{"density":0.5}', (RecipeSource(digest_of(b"p"), -0.5),), "lorry 0.1.0"),
)


def test_the_digest_of_a_known_manifest_never_changes() -> None:
    assert MANIFEST.digest == "sha256:ad7f18ec937c2b30ec770ad23c3cd8ff545068f0d3ed5c631ba059c182ea4e4e"


def test_the_canonical_form_is_sorted_without_white_space() -> None:
    text = MANIFEST.canonical_json().decode()

    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert text.startswith('{"alpha":16.0,"base_id":"sha256:')


digests = st.binary(max_size=3).map(digest_of)
names = st.text(max_size=10).filter(lambda text: text.isprintable())
reals = st.floats(allow_nan=False, allow_infinity=False)
manifests = st.builds(
    Manifest,
    files=st.lists(st.builds(ManifestFile, names, digests, st.integers(0, 1 << 62)), max_size=3).map(tuple),
    base_id=digests,
    config_json=st.text(max_size=20),
    rank=st.integers(1, 1000),
    alpha=reals,
    target_modules=st.lists(names, max_size=3).map(tuple),
    variant=st.sampled_from(["lora", "rslora", "dora"]),
    parents=st.lists(digests, max_size=3).map(tuple),
    features=st.lists(st.sampled_from([feature.value for feature in Feature]), max_size=3).map(tuple),
    recipe=st.none()
    | st.builds(Recipe, names, names, st.lists(st.builds(RecipeSource, digests, reals), max_size=3).map(tuple), names),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(manifests)
def test_what_is_written_is_read_back_equal(manifest: Manifest) -> None:
    assert manifest_from_json(manifest.canonical_json()) == manifest


def changed(**fields: object) -> bytes:
    return canonical_json(json.loads(MANIFEST.canonical_json()) | fields).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b"",
        json.dumps(json.loads(MANIFEST.canonical_json())).encode(),
        changed(unknown=1),
        changed(schema=2),
        changed(rank="8"),
        changed(rank=8.0),
        changed(alpha=16),
        changed(alpha=True),
        changed(base_id="sha256:0"),
        changed(variant="ia3"),
        changed(files=[["README.md", BASE_ID, 1]]),
        changed(files={}),
        changed(parents=[1]),
        changed(parents="sha256"),
        changed(recipe=[]),
        changed(recipe={"method": "ties"}),
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidAdapter):
        manifest_from_json(data)


def test_the_manifest_of_a_bundle_says_what_the_bundle_is(tmp_path: Path) -> None:
    bundle = check_bundle(write_adapter(tmp_path, rslora=True))

    manifest = build_manifest(bundle.files, bundle.facts, BASE_ID)

    assert manifest.files == bundle.files
    assert (manifest.rank, manifest.alpha, manifest.variant) == (2, 4.0, "rslora")
    assert manifest.target_modules == ("model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj")
    assert manifest.config_json == bundle.facts.config_json
    assert manifest_from_json(manifest.canonical_json()) == manifest


def test_equal_bundles_have_one_digest_and_lineage_makes_another(tmp_path: Path) -> None:
    first, second = (check_bundle(write_adapter(tmp_path / name)) for name in "ab")
    plain = build_manifest(first.files, first.facts, BASE_ID)

    assert build_manifest(reversed(second.files), second.facts, BASE_ID).digest == plain.digest
    assert build_manifest(second.files, second.facts, BASE_ID, parents=[plain.digest]).digest != plain.digest
    assert replace(plain, base_id=digest_of(b"other")).digest != plain.digest


def test_lineage_is_of_digests_alone(tmp_path: Path) -> None:
    bundle = check_bundle(write_adapter(tmp_path))

    with pytest.raises(InvalidDigest):
        build_manifest(bundle.files, bundle.facts, BASE_ID, parents=["default/parent@3"])
