"""The file store obeys the suite, and what it alone promises: durability, locks, typed disk errors."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_registry.blobs.filesystem import FileStore
from lorry.errors import StorageUnavailable
from lorry.format.digest import digest_of
from tests.suites.blob_store import BlobStoreSuite, BoundedMemorySuite
from tests.support.blobs import Place, blob, damage_file, feed, put, read


class TestFileStore(BlobStoreSuite, BoundedMemorySuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        root = tmp_path / "store"
        return Place(open=lambda: FileStore(root), granule=1, damage=lambda digest: damage_file(path_in(root, digest)))


def path_in(root: Path, digest: str) -> Path:
    return root / "blobs" / "sha256" / digest[7:9] / digest[7:]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


UPLOADER = """
import sys
from pathlib import Path
from adapter_registry.blobs.filesystem import FileStore
from lorry.format.digest import digest_of
root, source, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
data = source.read_bytes()
upload = FileStore(root).upload(digest_of(data), len(data))
print("began", flush=True)
for at in range(upload.committed, stop, 10_000):
    upload.write(at, data[at : min(at + 10_000, stop)])
print("wrote", flush=True)
sys.stdin.readline()
upload.finish()
upload.close()
print("acknowledged", flush=True)
"""


def uploader(root: Path, data: bytes, stop: int, tracer: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A process that uploads `data`, pauses at `stop` bytes, and finishes when a line comes."""
    source = root.with_name("source")
    source.write_bytes(data)
    return subprocess.Popen(
        [*tracer, sys.executable, "-c", UPLOADER, str(root), str(source), str(stop)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def await_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while (said := process.stdout.readline().strip()) != line:
        assert said, f"the process ended before it said {line!r}"


def path_of(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


# Durability


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = blob(50_000)
    digest = digest_of(data)
    upload = FileStore(root).upload(digest, len(data))
    feed(upload, data)
    done: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        real_fsync(fd)
        done.append(f"fsync {path_of(fd).relative_to(root)}")

    def rename(source: Path, target: Path) -> None:
        real_rename(source, target)
        done.append(f"rename to {Path(target).relative_to(root)}")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    upload.finish()
    upload.close()
    name = digest.removeprefix("sha256:")
    assert done[0].startswith(f"fsync uploads/{name}.")
    assert done[1:] == [f"rename to blobs/sha256/{name[:2]}/{name}", f"fsync blobs/sha256/{name[:2]}"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_kernel_sees_sync_rename_sync_before_the_acknowledgement(root: Path) -> None:
    log = root.with_name("trace")
    tracer = ("strace", "-f", "-y", "-s", "20", "-e", "trace=fsync,rename,renameat,renameat2,write", "-o", str(log))
    data = blob(50_000)
    with uploader(root, data, len(data), tracer) as process:
        process.communicate("finish\n", timeout=60)
    calls = log.read_text().partition('"wrote')[2]
    name = digest_of(data).removeprefix("sha256:")
    order = [
        rf"fsync\(\d+<[^>]*/uploads/{name}\.\w+>\) += 0",
        rf"rename\w*\(.*/{name[:2]}/{name}\".*\) += 0",
        rf"fsync\(\d+<[^>]*/blobs/sha256/{name[:2]}>\) += 0",
        r"write\(1.*acknowledged",
    ]
    assert re.search(".*".join(order), calls, re.DOTALL), calls


def test_a_blob_seen_by_another_upload_is_synced_before_that_is_acknowledged(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(root)
    digest = put(store, b"bytes")
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(path_of(fd)))
    store.upload(digest, 5).close()
    assert synced == [root / "blobs" / "sha256" / digest[7:9]]


# Processes


@pytest.mark.parametrize("cut", [0, 1, 123_456, 300_000])
def test_what_a_killed_process_took_is_gone_on_from(root: Path, cut: int) -> None:
    data = blob(300_000)
    digest = digest_of(data)
    with uploader(root, data, cut) as process:
        await_line(process, "wrote")
        process.send_signal(signal.SIGKILL)
    store = FileStore(root)
    assert store.missing([digest]) == [digest]
    upload = store.upload(digest, len(data))
    assert upload.committed == cut
    feed(upload, data)
    upload.finish()
    upload.close()
    assert read(store, digest) == data
    assert list((root / "uploads").iterdir()) == []


def test_uploads_of_one_digest_in_two_processes_both_succeed(root: Path) -> None:
    data = blob(300_000)
    with uploader(root, data, len(data)) as other:
        await_line(other, "wrote")
        store = FileStore(root)
        upload = store.upload(digest_of(data), len(data))
        assert upload.committed == 0  # what the other one writes is the other one's
        feed(upload, data)
        upload.finish()
        upload.close()
        said, _ = other.communicate("finish\n", timeout=60)
    assert said == "acknowledged\n"
    assert read(store, digest_of(data)) == data


def test_a_blob_is_as_old_as_its_visibility_however_long_ago_its_bytes_came(root: Path) -> None:
    store, data = FileStore(root), blob(1000)
    broken = store.upload(digest_of(data), len(data))
    feed(broken, data)
    broken.close()
    (temporary,) = (root / "uploads").iterdir()
    os.utime(temporary, (0, 0))
    put(store, data)
    (listed,) = store.blobs()
    assert datetime.now(UTC) - listed.modified < timedelta(hours=1)


def test_a_probe_that_a_process_left_when_it_died_is_swept(root: Path) -> None:
    store = FileStore(root)
    (root / "uploads" / "probe.left").touch()
    assert store.sweep_uploads(datetime.now(UTC) + timedelta(hours=1)) == 1
    assert list((root / "uploads").iterdir()) == []


# Faults of the disk


def test_a_full_disk_is_a_typed_refusal_and_the_upload_goes_on_when_there_is_room(root: Path) -> None:
    data = blob(100_000)
    store, digest = FileStore(root), digest_of(data)
    upload = store.upload(digest, len(data))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(StorageUnavailable, match="EFBIG"):
            feed(upload, data, chunk=30_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    upload.close()
    assert put(store, data) == digest
    assert read(store, digest) == data


def test_a_file_that_could_not_be_synced_is_thrown_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = blob(1000)
    store, digest = FileStore(root), digest_of(data)
    upload = store.upload(digest, len(data))
    feed(upload, data)

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as fault:
        fault.setattr(os, "fsync", broken)
        with pytest.raises(StorageUnavailable, match="EIO"):
            upload.finish()
    upload.close()
    assert store.missing([digest]) == [digest]
    assert store.progress(digest).committed == 0


def test_a_file_cut_short_under_a_reader_is_a_typed_error(root: Path) -> None:
    store = FileStore(root)
    digest = put(store, blob(100_000))
    opened = store.open(digest)
    pieces = opened.chunks(0, 0, 10_000)
    next(pieces)
    os.truncate(path_in(root, digest), 25_000)
    with pytest.raises(StorageUnavailable, match="100000"):
        list(pieces)
    opened.close()


def test_a_blob_that_was_cut_short_is_damaged(root: Path) -> None:
    store = FileStore(root)
    digest = put(store, blob(100_000))
    os.truncate(path_in(root, digest), 25_000)
    assert store.quarantine(digest)
    assert (root / "quarantine" / digest[7:]).stat().st_size == 25_000


def test_a_sound_blob_that_comes_while_a_damaged_one_is_put_aside_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, data, other = FileStore(root), blob(100_000), root / "other"
    digest, rename = put(store, data), Path.rename
    os.truncate(path_in(root, digest), 25_000)

    def overtaken(self: Path, target: Path) -> Path:
        if target.parent.name == "quarantine":
            other.write_bytes(data)
            rename(other, path_in(root, digest))  # as the end of an upload does
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    assert not store.quarantine(digest)
    assert path_in(root, digest).read_bytes() == data
    assert list(store.quarantined()) == []


def test_a_reader_comes_to_the_end_of_a_blob_that_is_deleted_meanwhile(root: Path) -> None:
    store, data = FileStore(root), blob(100_000)
    opened = store.open(put(store, data))
    pieces = opened.chunks(0, 0, 10_000)
    first = next(pieces)
    store.delete(digest_of(data))
    assert first + b"".join(pieces) == data
    opened.close()


def test_a_folder_that_cannot_be_or_is_gone_is_a_typed_error(root: Path) -> None:
    root.write_text("a file, no folder")
    with pytest.raises(StorageUnavailable, match=r"EEXIST|ENOTDIR"):
        FileStore(root)
    root.unlink()
    store = FileStore(root)
    shutil.rmtree(root)
    with pytest.raises(StorageUnavailable, match="ENOENT"):
        store.probe()
    with pytest.raises(StorageUnavailable, match="ENOENT"):
        store.upload(digest_of(b""), 0)
