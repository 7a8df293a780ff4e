"""One process sweeps without a pause while another uploads to the same folder or bucket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_registry.blobs.factory import open_store
from adapter_registry.blobs.protocol import BlobStore
from adapter_registry.blobs.s3_bucket import S3Settings
from adapter_registry.blobs.s3_parts import PART_BYTES
from lorry.errors import StorageUnavailable
from lorry.format.digest import digest_of
from tests.support.blobs import blob, feed, put, read

SWEEPER = """
import select, sys
from datetime import UTC, datetime, timedelta
from adapter_registry.blobs.factory import open_store
from adapter_registry.blobs.s3_bucket import S3Settings
url, hours, endpoint, key, secret = sys.argv[1:]
store = open_store(url, S3Settings(endpoint=endpoint, access_key_id=key, secret_access_key=secret))
swept = store.sweep_uploads(datetime.now(UTC) + timedelta(hours=int(hours)))
print("began", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    swept += store.sweep_uploads(datetime.now(UTC) + timedelta(hours=int(hours)))
print(swept)
"""


@contextmanager
def sweeping(url: str, settings: S3Settings, hours: int) -> Iterator[list[int]]:
    """A process that sweeps what is older than so many hours from now; how many it swept comes at the end."""
    endpoint, key, secret = settings.endpoint or "", settings.access_key_id or "", settings.secret_access_key or ""
    command = [sys.executable, "-c", SWEEPER, url, str(hours), endpoint, key, secret]
    swept: list[int] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        yield swept
        said, _ = process.communicate("stop\n", timeout=60)
    swept.append(int(said))


def nothing_left(store: BlobStore) -> bool:
    return store.sweep_uploads(datetime.now(UTC) + timedelta(hours=1), dry_run=True) == 0


def test_a_file_that_is_written_is_never_swept_away(tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    store = open_store(url, S3Settings())
    # Whatever lies there is old to this sweeper, so an empty file that nobody has locked yet may go: another is made.
    with sweeping(url, S3Settings(), hours=1):
        for seed in range(100):
            data = blob(50_000, seed)
            assert read(store, put(store, data, chunk=10_000, owner="team")) == data
    assert nothing_left(store)


def test_what_a_killed_process_left_is_old_at_once(tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    store = open_store(url, S3Settings())
    upload = store.upload(digest_of(b"bytes"), 5)
    upload.write(0, b"by")
    with sweeping(url, S3Settings(), hours=1) as swept:
        upload.close()  # as the kernel does for the dead
        while not nothing_left(store):
            pass
    assert swept == [1]


@pytest.mark.s3
def test_a_young_upload_to_a_bucket_is_left_alone(s3_settings: S3Settings, s3_bucket: str) -> None:
    url, data = f"s3://{s3_bucket}/prefix", blob(2 * PART_BYTES + 1)
    store = open_store(url, s3_settings)
    store.probe()
    with sweeping(url, s3_settings, hours=-1) as swept:
        assert read(store, put(store, data, owner="team")) == data
        assert [read(store, put(store, blob(1000, seed))) for seed in range(5)] == [
            blob(1000, seed) for seed in range(5)
        ]
    assert swept == [0]
    assert nothing_left(store)


@pytest.mark.s3
def test_an_upload_to_a_bucket_that_is_swept_away_ends_right_or_typed(s3_settings: S3Settings, s3_bucket: str) -> None:
    url, data = f"s3://{s3_bucket}/prefix", blob(2 * PART_BYTES + 1)
    store = open_store(url, s3_settings)
    store.probe()
    upload = store.upload(digest_of(data), len(data))
    with sweeping(url, s3_settings, hours=1):
        try:
            feed(upload, data)
            upload.finish()
        except StorageUnavailable:
            assert store.missing([digest_of(data)])
        finally:
            upload.close()
    assert read(store, put(store, data)) == data
    assert nothing_left(store)
