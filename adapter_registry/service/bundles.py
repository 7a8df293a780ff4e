"""An adapter that lies in the blob store: is it all there, is it sound, what is it?

Owns the order in which its bytes are looked at: sizes, configuration, header, facts, values. Reads in
bounded memory. Does not know bases, names or versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Protocol

from adapter_registry.blobs.protocol import Blob
from lorry.errors import InvalidAdapter
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME
from lorry.format.config import MAX_CONFIG
from lorry.format.derive import outline
from lorry.format.facts import AdapterFacts
from lorry.format.finite import check_finite
from lorry.format.header import LENGTH_BYTES, header_length, parse_header
from lorry.format.manifest import ManifestFile

# One read of a blob: what the stores read best.
_CHUNK = 1 << 20


class Opener(Protocol):
    """Where the bytes are."""

    def open(self, digest: str) -> Blob:
        """Open a blob. Raises BlobNotFound, StorageUnavailable."""


def inspect(store: Opener, files: Sequence[ManifestFile]) -> None:
    """Read every byte of a bundle's weights. Slow; any thread.

    Raises InvalidAdapter, what opening and reading the blobs raises.
    """
    with _opened(store, files, WEIGHTS_NAME) as weights:
        index = parse_header(_header(weights), weights.size)
        check_finite(index, weights.chunks(0, 0, _CHUNK))


def outline_of(store: Opener, files: Sequence[ManifestFile]) -> AdapterFacts:
    """The facts of a bundle from its configuration and header alone.

    Raises InvalidAdapter, UnsupportedAdapter, BlobNotFound, StorageUnavailable.
    """
    with _opened(store, files, CONFIG_NAME) as blob:
        config = _read(blob, 0, MAX_CONFIG + 1)  # one more than parse_config takes
    with _opened(store, files, WEIGHTS_NAME) as weights:
        return outline(config, _header(weights), weights.size)


def outline_of_claimed(store: Opener, files: Sequence[ManifestFile]) -> AdapterFacts:
    """The same of files whose sizes somebody claims. Raises as `outline_of`."""
    _check_sizes(store, files)
    return outline_of(store, files)


def _check_sizes(store: Opener, files: Sequence[ManifestFile]) -> None:
    for file in files:
        with closing(store.open(file.digest)) as blob:
            if blob.size != file.size:
                raise InvalidAdapter(f"{file.name}: expected the blob's {blob.size} bytes, got a claim of {file.size}")


@contextmanager
def _opened(store: Opener, files: Sequence[ManifestFile], name: str) -> Iterator[Blob]:
    digest = next(file.digest for file in files if file.name == name)
    with closing(store.open(digest)) as blob:
        yield blob


def _header(weights: Blob) -> bytes:
    first = _read(weights, 0, LENGTH_BYTES)
    return first + _read(weights, LENGTH_BYTES, header_length(first) - LENGTH_BYTES)


def _read(blob: Blob, offset: int, limit: int) -> bytes:
    return b"".join(blob.chunks(min(offset, blob.size), limit, _CHUNK))
