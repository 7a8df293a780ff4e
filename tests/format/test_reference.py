"""Names, references and digests: one spelling each."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry.errors import DigestMismatch, InvalidDigest, InvalidName, InvalidReference
from lorry.format.digest import Hasher, check_digest, digest_of, digest_of_file, is_digest
from lorry.format.reference import AdapterName, Reference, check_name, parse_adapter_name, parse_reference

DIGEST = digest_of(b"x")
ADAPTER = AdapterName("team", "pirate")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("pirate", Reference(AdapterName("default", "pirate"))),
        ("team/pirate", Reference(ADAPTER)),
        ("team/pirate@3", Reference(ADAPTER, number=3)),
        ("team/pirate:prod", Reference(ADAPTER, alias="prod")),
        (f"team/pirate@{DIGEST}", Reference(ADAPTER, digest=DIGEST)),
    ],
)
def test_a_reference_is_read_and_written_back(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert str(reference) == text


names = st.from_regex(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True)
references = st.builds(AdapterName, names, names).flatmap(
    lambda adapter: st.one_of(
        st.just(Reference(adapter)),
        st.integers(1, 10**18 - 1).map(lambda number: Reference(adapter, number=number)),
        names.map(lambda alias: Reference(adapter, alias=alias)),
        st.binary(max_size=4).map(lambda data: Reference(adapter, digest=digest_of(data))),
    )
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(references)
def test_every_reference_survives_its_spelling(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize("text", ["", "a/b/c", "A", "a b", "a/", "/a", "a:", "a:B", "a..", "-a", "ä", "a\n", "a" * 64])
def test_a_wrong_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_reference(text)


@pytest.mark.parametrize("text", ["a@", "a@0", "a@03", "a@-1", "a@sha256:12", "a@b", "a@1@2", "a@1:b", "a" * 400])
def test_a_wrong_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


def test_an_adapter_name_has_no_version() -> None:
    assert parse_adapter_name("team/pirate") == ADAPTER
    for text in ("team/pirate@3", "team/pirate:prod"):
        with pytest.raises(InvalidReference):
            parse_adapter_name(text)


def test_a_wrong_name_is_told_by_what_it_is() -> None:
    with pytest.raises(InvalidName, match=r"route: expected .* got 'Über'"):
        check_name("Über", "route")


def test_the_digest_of_bytes_is_sha256_in_lower_case_hexadecimal() -> None:
    assert digest_of(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digests_of_bytes_of_pieces_and_of_a_file_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 3_000_000)
    hasher = Hasher()
    for _ in range(3):
        hasher.update(memoryview(b"abc" * 1_000_000))

    assert hasher.digest == digest_of_file(path) == digest_of(path.read_bytes())


def test_bytes_that_are_not_what_they_came_as_are_refused() -> None:
    hasher = Hasher()
    hasher.update(b"abd")

    with pytest.raises(DigestMismatch, match=digest_of(b"abc")):
        hasher.verify(digest_of(b"abc"))


@pytest.mark.parametrize(
    "text", ["", "sha256:", DIGEST.upper(), DIGEST[:-1], DIGEST + "0", DIGEST + "\n", "md5:" + "0" * 64]
)
def test_other_spellings_are_no_digest(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(InvalidDigest):
        check_digest(text)
