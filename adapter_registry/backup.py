"""Backup and restore of the embedded default: one SQLite file, and blobs in files.

Owns the order: the database first, then the blobs that this copy of it names, then the copy gets its
name. So the database in a backup never names what is not beside it, whatever happens on the way and
whatever the registry does meanwhile. A backup is laid out like a data folder. Does not know what rows
mean.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapter_registry.blobs.files import sync_folder
from adapter_registry.blobs.filesystem import FileStore
from adapter_registry.settings import Settings
from adapter_registry.store.catalog import SqlCatalog, open_catalog
from adapter_registry.store.migrate import current_is_head, upgrade
from lorry.errors import BlobNotFound, DataLoss, DigestMismatch, FailedPrecondition
from lorry.format.digest import digest_of_file

_DATABASE = "catalog.db"
# Rows in one query, and bytes in one read.
_BATCH, _CHUNK = 1_000, 1 << 20
# Digests that an error lists.
_TOLD = 20


@dataclass(frozen=True, slots=True)
class Copied:
    """What was done: blobs in all, and bytes of those that were not there yet."""

    blobs: int = 0
    new_bytes: int = 0

    def with_one(self, size: int) -> Copied:
        """And one blob more, of which so many bytes were new."""
        return Copied(self.blobs + 1, self.new_bytes + size)


def back_up(settings: Settings, folder: Path) -> Copied:
    """Bring a folder to the state of the registry, which may be running; only what is new is copied.

    Blobs are linked where the file system allows it: they take no room then, and share the fate of
    that disk. Raises FailedPrecondition where the registry is no embedded one, AlreadyRunning while
    garbage is being collected, DataLoss where the registry itself lacks blobs, OSError.
    """
    source = _embedded(settings)
    if not source.is_file() or not current_is_head(settings.database):
        raise FailedPrecondition(f"expected the database of a registry of this release at {source}")
    target, copy = FileStore(folder), folder / f"{_DATABASE}.new"
    with closing(open_catalog(settings.database, 1)) as live, closing(live.take_turn("gc")):
        _copy_database(source, copy)
        with closing(_opened(copy)) as catalog:
            named = set(_live(catalog))
            copied, lacking = _link_all(_store(settings), target, named)
    _publish(copy)
    for old in [stored.digest for stored in target.blobs() if stored.digest not in named]:
        target.delete(old)
    _refuse_lacking(lacking, "the registry lacks blobs that it should have; everything else was backed up")
    return copied


def restore(settings: Settings, folder: Path) -> Copied:
    """Fill an empty data folder from a backup; every blob is hashed on the way.

    The database appears last: where this raises, there is no registry to start. Raises
    FailedPrecondition where there is one already, or the settings name no embedded one, DataLoss where
    blobs of the backup are damaged or missing, OSError.
    """
    target, source = _embedded(settings), folder / _DATABASE
    if not source.is_file():
        raise FailedPrecondition(f"expected a backup in {folder}, there is no {_DATABASE}")
    for there in (target, *_beside(target)):
        if there.exists():
            raise FailedPrecondition(f"expected no database yet, there is {there}: restore into an empty data folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    copy = target.with_name(f"{target.name}.new")
    _copy_database(source, copy)
    upgrade(_url(copy))
    with closing(_opened(copy)) as catalog:
        copied, lacking = _copy_all(FileStore(folder), _store(settings), _live(catalog))
    _refuse_lacking(lacking, "blobs of the backup are damaged or missing")
    _publish(copy)
    return copied


def _embedded(settings: Settings) -> Path:
    """The database's file. Raises FailedPrecondition."""
    if not settings.database.startswith("sqlite:///") or urlsplit(settings.blob_store).scheme != "file":
        raise FailedPrecondition(
            "this is for SQLite with blobs in files; with PostgreSQL and S3 take pg_dump first, then copy the bucket, "
            "or let it keep versions"
        )
    return Path(settings.database.removeprefix("sqlite:///"))


def _store(settings: Settings) -> FileStore:
    return FileStore(Path(unquote(urlsplit(settings.blob_store).path)))


def _beside(database: Path) -> tuple[Path, Path]:
    """What SQLite keeps beside a database: changes that are not in it yet. To another database they are poison."""
    return database.with_name(f"{database.name}-wal"), database.with_name(f"{database.name}-shm")


def _copy_database(source: Path, target: Path) -> None:
    """One state of a database that others write meanwhile."""
    for old in (target, *_beside(target)):
        old.unlink(missing_ok=True)
    with _connected(source) as reading, _connected(target) as writing:
        reading.backup(writing)


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise OSError(f"cannot copy the database {path}: {error}") from error


def _url(path: Path) -> str:
    return f"sqlite:///{path.absolute()}"


def _opened(path: Path) -> SqlCatalog:
    return open_catalog(_url(path), 1)


def _live(catalog: SqlCatalog) -> Iterator[str]:
    """Digests of the blobs whose bytes must be there."""
    after = ""
    while page := catalog.states(after, _BATCH):
        yield from (state.digest for state in page if not state.condemned and not state.quarantined)
        after = page[-1].digest


def _link_all(source: FileStore, target: FileStore, digests: Iterable[str]) -> tuple[Copied, list[str]]:
    """What was done, and the digests that the source lacks."""
    copied, lacking = Copied(), []
    for digest in digests:
        try:
            copied = copied.with_one(_link(source.path_of(digest), target.path_of(digest)))
        except FileNotFoundError:
            lacking.append(digest)
    return copied, lacking


def _link(source: Path, target: Path) -> int:
    """Bytes that are new in the backup, for which the file is there whole or not at all."""
    if target.exists():
        return 0
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, temporary)
        _sync(temporary)
    size = temporary.stat().st_size
    temporary.rename(target)
    sync_folder(target.parent)
    return size


def _copy_all(source: FileStore, target: FileStore, digests: Iterable[str]) -> tuple[Copied, list[str]]:
    """What was done, and the digests that the source lacks or has damaged."""
    copied, lacking = Copied(), []
    for digest in digests:
        try:
            copied = copied.with_one(_copy(source, target, digest))
        except (BlobNotFound, DigestMismatch):
            lacking.append(digest)
    return copied, lacking


def _copy(source: FileStore, target: FileStore, digest: str) -> int:
    _drop_damaged(target, digest)
    with closing(source.open(digest)) as blob, closing(target.upload(digest, blob.size)) as upload:
        if upload.existed:
            return 0
        for piece in blob.chunks(upload.committed, 0, _CHUNK):
            upload.write(upload.committed, piece)
        upload.finish()
        return blob.size


def _drop_damaged(store: FileStore, digest: str) -> None:
    """What lies in the folder already is as good as its bytes are."""
    path = store.path_of(digest)
    if path.exists() and digest_of_file(path) != digest:
        store.delete(digest)


def _refuse_lacking(lacking: Sequence[str], what: str) -> None:
    if lacking:
        more = f" and {len(lacking) - _TOLD} more" if len(lacking) > _TOLD else ""
        raise DataLoss(f"{what}: {', '.join(lacking[:_TOLD])}{more}")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _publish(copy: Path) -> None:
    """Give the database its name, durably."""
    _sync(copy)
    for old in _beside(copy.with_name(copy.name.removesuffix(".new"))):
        old.unlink(missing_ok=True)  # of the database that this one takes the place of
    copy.rename(copy.with_name(copy.name.removesuffix(".new")))
    sync_folder(copy.parent)
