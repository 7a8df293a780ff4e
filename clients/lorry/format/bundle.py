"""A folder on disk as an adapter bundle: which files may be in it, and whether they are sound.

Owns the closed list of file names and the order of the checks: names, configuration, header, facts,
values. Reads files, writes none, follows no link out of the folder. Does not know any base.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lorry.errors import InvalidAdapter
from lorry.format.config import MAX_CONFIG, parse_config
from lorry.format.derive import derive_facts
from lorry.format.digest import Hasher, digest_of, digest_of_file
from lorry.format.facts import AdapterFacts
from lorry.format.finite import check_finite
from lorry.format.header import LENGTH_BYTES, header_length, parse_header
from lorry.format.manifest import ManifestFile

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
REQUIRED = frozenset({CONFIG_NAME, WEIGHTS_NAME})
# What tokenizers of transformers write, and the card that PEFT writes.
OPTIONAL = frozenset(
    {
        "README.md",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_CHUNK = 1 << 20
# How many names, and how much of each, a message lists.
_LISTED, _SHOWN = 10, 80


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle. files: ordered by name. header: of the weights, its 8 length bytes included."""

    directory: Path
    files: tuple[ManifestFile, ...]
    config: bytes
    header: bytes
    facts: AdapterFacts

    def path(self, file: ManifestFile) -> Path:
        """Where a file of the bundle lies."""
        return self.directory / file.name


def check_bundle(directory: Path) -> Bundle:
    """Check a folder and derive its facts; every byte is read, in bounded memory.

    Folders inside are passed over. Raises InvalidAdapter, UnsupportedAdapter; OSError where the
    folder cannot be read.
    """
    names = _names(directory)
    config = _read_config(directory / CONFIG_NAME)
    parsed = parse_config(config)
    with (directory / WEIGHTS_NAME).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        header = _read_header(file)
        index = parse_header(header, size)
        facts = derive_facts(parsed, index)
        hasher = Hasher()
        check_finite(index, _hashed(header, file, hasher))
    known = {CONFIG_NAME: ManifestFile(CONFIG_NAME, digest_of(config), len(config))}
    known[WEIGHTS_NAME] = ManifestFile(WEIGHTS_NAME, hasher.digest, size)
    files = tuple(known.get(name) or _describe(directory / name) for name in sorted(names))
    return Bundle(directory, files, config, header, facts)


def check_names(names: Iterable[str]) -> None:
    """Raise InvalidAdapter where these are not the file names of a bundle: both required, none
    twice, none outside of the closed list.
    """
    listed = sorted(names)
    pickles = [name for name in listed if name.lower().endswith(_PICKLES)]
    if pickles:
        raise InvalidAdapter(
            f"pickle files can run code and are never read: {_list(pickles)}; save with safe_serialization=True "
            "and leave them out"
        )
    unexpected = [name for name in listed if name not in REQUIRED | OPTIONAL]
    if unexpected:
        raise InvalidAdapter(
            f"unexpected files in the bundle: {_list(unexpected)}; expected {', '.join(sorted(REQUIRED))} and "
            "tokenizer, template and README.md files alone"
        )
    missing = sorted(REQUIRED.difference(listed))
    if missing:
        raise InvalidAdapter(f"missing from the bundle: {', '.join(missing)}")
    if len(set(listed)) != len(listed):
        raise InvalidAdapter("a file name comes twice in the bundle")


def _names(directory: Path) -> list[str]:
    if not directory.is_dir():
        raise InvalidAdapter(f"expected a folder with {' and '.join(sorted(REQUIRED))}, got {str(directory)!r}")
    root = directory.resolve()
    names = []
    for path in directory.iterdir():
        folder = path.is_dir() and not path.is_symlink()
        if folder and path.name not in REQUIRED | OPTIONAL:
            continue
        if not path.resolve().is_relative_to(root):
            raise InvalidAdapter(f"{path.name[:_SHOWN]!r} is a link out of the folder; copy what it points to")
        names.append(path.name)
    check_names(names)
    for name in names:
        if not stat.S_ISREG((directory / name).stat().st_mode):
            raise InvalidAdapter(f"{name}: expected a regular file")
    return names


def _read_config(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_CONFIG + 1)  # one more than parse_config takes


def _read_header(file: BinaryIO) -> bytes:
    first = file.read(LENGTH_BYTES)
    return first + file.read(header_length(first) - LENGTH_BYTES)


def _hashed(header: bytes, rest: BinaryIO, hasher: Hasher) -> Iterator[bytes]:
    piece = header
    while piece:
        hasher.update(piece)
        yield piece
        piece = rest.read(_CHUNK)


def _describe(path: Path) -> ManifestFile:
    return ManifestFile(path.name, digest_of_file(path), path.stat().st_size)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name[:_SHOWN]) for name in names[:_LISTED]) + more
