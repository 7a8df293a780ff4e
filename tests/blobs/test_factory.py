"""A URL names a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_registry.blobs.cached import CachedStore, CacheSettings
from adapter_registry.blobs.factory import open_store
from adapter_registry.blobs.filesystem import FileStore
from adapter_registry.blobs.memory import MemoryStore
from adapter_registry.blobs.s3 import S3Store
from adapter_registry.blobs.s3_bucket import S3Settings
from lorry.errors import InvalidInput


def test_memory() -> None:
    assert isinstance(open_store("memory://", S3Settings()), MemoryStore)


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    assert isinstance(open_store(folder.as_uri(), S3Settings()), FileStore)
    assert (folder / "blobs").is_dir()


def test_a_bucket_is_named_without_asking_the_server() -> None:
    assert isinstance(open_store("s3://bucket/prefix", S3Settings()), S3Store)


def test_a_bucket_may_have_a_cache(tmp_path: Path) -> None:
    store = open_store("s3://bucket/prefix", S3Settings(), CacheSettings(tmp_path / "cache", 1 << 20))
    assert isinstance(store, CachedStore)
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("url", ["memory://", "file:///tmp/blobs"])
def test_blobs_that_are_at_hand_may_not(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="S3"):
        open_store(url, S3Settings(), CacheSettings(tmp_path / "cache", 1 << 20))


@pytest.mark.parametrize("url", ["", "/folder", "file://folder", "file://", "s3://", "ftp://host/x", "memory://x"])
def test_anything_else_is_refused_with_what_was_expected(url: str) -> None:
    with pytest.raises(InvalidInput, match="memory://, file:///folder or s3://bucket/prefix"):
        open_store(url, S3Settings())
