"""A folder as a bundle: the closed list of files, and what a check answers."""

from pathlib import Path

import pytest

from lorry.errors import InvalidAdapter
from lorry.format.bundle import check_bundle, check_names
from lorry.format.derive import outline
from lorry.format.digest import digest_of
from tests.support.adapters import CONFIG, WEIGHTS, write_adapter


def test_a_checked_bundle_lists_its_files_by_name_with_digest_and_size(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    (tmp_path / "README.md").write_bytes(b"# A card")

    bundle = check_bundle(tmp_path)

    assert [file.name for file in bundle.files] == ["README.md", CONFIG, WEIGHTS, "tokenizer.json"]
    for file in bundle.files:
        data = bundle.path(file).read_bytes()
        assert (file.digest, file.size) == (digest_of(data), len(data))


def test_the_facts_are_those_of_the_outline_that_travels(tmp_path: Path) -> None:
    bundle = check_bundle(write_adapter(tmp_path, dora=True))

    size = (tmp_path / WEIGHTS).stat().st_size
    assert bundle.facts == outline(bundle.config, bundle.header, size)
    assert (tmp_path / WEIGHTS).read_bytes().startswith(bundle.header)


def test_folders_beside_the_files_are_passed_over(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "checkpoint-100").mkdir()

    assert len(check_bundle(tmp_path).files) == 2


def test_a_link_to_a_file_of_the_same_folder_is_followed(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "vocab.json").write_bytes(b"{}")
    (tmp_path / "tokenizer.json").symlink_to("vocab.json")

    assert len(check_bundle(tmp_path).files) == 4


def test_all_unexpected_files_are_named_at_once(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    for name in ("optimizer.safetensors", "trainer_state.json"):
        (tmp_path / name).write_bytes(b"x")

    with pytest.raises(InvalidAdapter, match=r"'optimizer\.safetensors', 'trainer_state\.json'"):
        check_bundle(tmp_path)


def test_a_long_list_of_unexpected_files_is_cut_short() -> None:
    with pytest.raises(InvalidAdapter, match="and 990 more") as caught:
        check_names([f"{i}{'x' * 200}" for i in range(1000)])

    assert len(str(caught.value)) < 1200


def test_a_pickle_is_refused_with_the_way_to_save_without(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"x")

    with pytest.raises(InvalidAdapter, match="safe_serialization=True"):
        check_bundle(tmp_path)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match="expected a folder"):
        check_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    ["../adapter_config.json", "/etc/passwd", "a/README.md", "README.md\0", "ADAPTER_CONFIG.JSON", "", ".", ".."],
)
def test_a_file_name_from_the_wire_is_of_the_closed_list_or_refused(name: str) -> None:
    with pytest.raises(InvalidAdapter, match="unexpected files"):
        check_names([CONFIG, WEIGHTS, name])


def test_a_file_name_twice_is_refused() -> None:
    with pytest.raises(InvalidAdapter, match="twice"):
        check_names([CONFIG, WEIGHTS, CONFIG])


def test_the_two_required_files_suffice() -> None:
    check_names([WEIGHTS, CONFIG])
