"""Where a pulled folder came from, so that a push of the continued run can name its parent.

Owns `.lorry/origin.json` inside of the folder. A bundle passes over folders, and PEFT's
save_pretrained leaves them alone, so the note survives training and is never part of a version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorry.errors import InvalidInput, InvalidReference
from lorry.format.manifest import ManifestFile
from lorry.format.reference import parse_reference

NOTES = ".lorry"
_FILE = "origin.json"
# A bundle has at most 15 files of 150 bytes a line here.
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Origin:
    """The version that was pulled: its reference by digest, and the digest of each file by name."""

    reference: str
    files: Mapping[str, str]

    def differs_from(self, files: tuple[ManifestFile, ...]) -> bool:
        """Whether the folder holds something else by now."""
        return {file.name: file.digest for file in files} != dict(self.files)


def write_origin(folder: Path, origin: Origin) -> None:
    """Leave the note; there whole or not at all. Raises OSError."""
    path = folder / NOTES / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"reference": origin.reference, "files": dict(origin.files)}, indent=2))
    temporary.replace(path)


def read_origin(folder: Path) -> Origin | None:
    """The note, None where there is none. Raises InvalidInput where somebody damaged it."""
    path = folder / NOTES / _FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    try:
        note = json.loads(text)
        parse_reference(note["reference"])
        return Origin(note["reference"], {str(name): str(digest) for name, digest in note["files"].items()})
    except (ValueError, LookupError, TypeError, AttributeError, InvalidReference) as error:
        raise InvalidInput(f"{path} is damaged; name the parents explicitly, or delete it: {error}") from error
