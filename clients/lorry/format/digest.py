"""Digests: the identity of bytes.

Owns the spelling `sha256:<64 lowercase hex digits>` and hashing on the way. Does not know what the
bytes mean.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from lorry.errors import DigestMismatch, InvalidDigest

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# One read of a file while hashing; large enough that the call costs nothing beside the hashing.
_CHUNK = 1 << 20


def is_digest(text: str) -> bool:
    """Whether the text is spelt as a digest."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(text: str) -> str:
    """The text, where it is a digest. Raises InvalidDigest."""
    if not is_digest(text):
        raise InvalidDigest(f"expected sha256:<64 lowercase hex digits>, got {text[:100]!r}")
    return text


def digest_of(data: bytes | memoryview) -> str:
    """Digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(path: Path) -> str:
    """Digest of a file, read in pieces. Raises OSError."""
    hasher = Hasher()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            hasher.update(piece)
    return hasher.digest


class Hasher:
    """A digest that grows with the bytes."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Take more bytes."""
        self._sha.update(data)

    @property
    def digest(self) -> str:
        """Digest of what came so far."""
        return f"sha256:{self._sha.hexdigest()}"

    def verify(self, expected: str) -> None:
        """Raise DigestMismatch where the bytes are not what they came as."""
        if self.digest != expected:
            raise DigestMismatch(f"expected bytes of {expected}, got {self.digest}")
