"""The blob store that a URL names.

Owns the URL's three forms, and which of them may have a cache. Does not know where the URL or the
credentials were read from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from adapter_registry.blobs.protocol import BlobStore
from lorry.errors import InvalidInput

if TYPE_CHECKING:
    from adapter_registry.blobs.cached import CacheSettings
    from adapter_registry.blobs.s3_bucket import S3Settings


def open_store(url: str, s3: S3Settings, cache: CacheSettings | None = None) -> BlobStore:
    """`memory://`, `file:///folder` or `s3://bucket/prefix`; the last alone may have a cache.

    Raises InvalidInput, StorageUnavailable.
    """
    parts = urlsplit(url)
    if cache is not None and parts.scheme != "s3":
        raise InvalidInput(f"a blob cache is for a store in S3, got {url!r}: its blobs are at hand already")
    if parts.scheme == "memory" and not parts.netloc and not parts.path:
        from adapter_registry.blobs.memory import MemoryStore

        return MemoryStore()
    if parts.scheme == "file" and not parts.netloc and parts.path:
        from adapter_registry.blobs.filesystem import FileStore

        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from adapter_registry.blobs.s3 import S3Store

        store = S3Store(parts.netloc, parts.path, s3)
        return store if cache is None else _cached(store, cache)
    raise InvalidInput(f"a blob store is memory://, file:///folder or s3://bucket/prefix, got {url!r}")


def _cached(store: BlobStore, cache: CacheSettings) -> BlobStore:
    from adapter_registry.blobs.cached import CachedStore

    return CachedStore(store, cache)
