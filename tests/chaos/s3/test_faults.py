"""An S3 server behind a network that misbehaves, under the whole registry and its real client.

Nothing that was acknowledged is lost, nothing that is visible is wrong, every failure is typed, and
garbage collection leaves nothing over. CHAOS_S3_OPERATIONS and CHAOS_SEED make the run longer or another.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from adapter_registry import app
from adapter_registry.blobs import s3, s3_parts
from adapter_registry.blobs.s3_bucket import S3Settings
from lorry import retry
from lorry.registry import RegistryClient
from tests.chaos.s3.lane import PART_BYTES, Books, Lane
from tests.chaos.s3.run import Tally, run_lane
from tests.support.postgres import PostgresServer
from tests.support.registry import running_registry
from tests.support.s3_proxy import S3Proxy, s3_proxy

pytestmark = [
    pytest.mark.s3,
    pytest.mark.postgres,
    # A head that is cut within its date; botocore takes the rest for one, and nobody looks at it.
    pytest.mark.filterwarnings("ignore::dateutil.parser.UnknownTimezoneWarning"),
    # botocore does not close what it could not parse; the garbage collector does.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

OPERATIONS = int(os.environ.get("CHAOS_S3_OPERATIONS") or 40)
SEED = int(os.environ.get("CHAOS_SEED") or 1)
# Each with a registry, a database and a bucket of its own. They wait for one another's faults, not for a core.
LANES = 6
# Of silence. A sound answer takes milliseconds, and a second or two where the machine has too much to do.
S3_SECONDS = 3.0


@dataclass(frozen=True)
class Site:
    """Where one registry keeps everything."""

    folder: Path
    bucket: str
    database: str
    s3: S3Settings

    @asynccontextmanager
    async def registry(self, endpoint: str | None, seconds: float) -> AsyncIterator[RegistryClient]:
        """A client of a registry on it that reaches S3 at the endpoint, and waits for so long."""
        settings: dict[str, Any] = {
            "database_url": self.database,
            "blobs": f"s3://{self.bucket}/registry",
            "s3_endpoint": endpoint,
            "s3_access_key_id": self.s3.access_key_id,
            "s3_secret_access_key": self.s3.secret_access_key,
            "s3_timeout_seconds": seconds,
            # Its questions would meet faults that are meant for others.
            "health_seconds": 86_400,
            "gc_seconds": 0,
        }
        async with running_registry(self.folder, **settings) as target, RegistryClient(target, timeout=60) as client:
            yield client


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many uploads of several parts in little time."""
    for module in (s3, s3_parts):
        monkeypatch.setattr(module, "PART_BYTES", PART_BYTES)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients give up soon, and collections take what is young, too."""
    monkeypatch.setattr(retry, "MAX_FAILURES", 2)
    keeping = app._keeping
    monkeypatch.setattr(app, "_keeping", lambda settings: replace(keeping(settings), settling=timedelta()))


@pytest.mark.usefixtures("impatient", "small_parts")
async def test_an_s3_server_that_misbehaves_loses_and_spoils_nothing(
    tmp_path: Path, postgres_server: PostgresServer, s3_settings: S3Settings, s3_bucket: str
) -> None:
    tally = Tally()
    async with AsyncExitStack() as stack:
        proxy = stack.enter_context(s3_proxy(s3_settings.endpoint))
        databases = [stack.enter_context(postgres_server.migrated()) for _ in range(LANES)]
        sites = [
            Site(tmp_path / f"{lane}", f"{s3_bucket}-{lane}", database, s3_settings)
            for lane, database in enumerate(databases)
        ]
        books = await asyncio.gather(*(trouble(site, proxy, number, tally) for number, site in enumerate(sites)))
        print(f"seed {SEED}\n{tally}")  # noqa: T201 - the figures are what the long form is for
        wrong = await asyncio.gather(*(aftermath(site, each) for site, each in zip(sites, books, strict=True)))
    assert [*tally.untyped, *tally.stuck, *(line for each in wrong for line in each)] == []
    assert tally.operations >= OPERATIONS
    assert [kind for kind, row in tally.rows.items() if not row.requests] == []


async def trouble(site: Site, proxy: S3Proxy, number: int, tally: Tally) -> Books:
    """Faulted operations on one site; what its client knows in the end."""
    async with site.registry(proxy.endpoint, S3_SECONDS) as client:
        lane = Lane(client, site.folder, SEED * LANES + number)
        await lane.begin()
        await run_lane(lane, proxy, site.bucket, OPERATIONS, tally)
        return lane.books


async def aftermath(site: Site, books: Books) -> list[str]:
    """What is wrong, looked at without the proxy: before and behind a collection of all that is not named."""
    bucket = Bucket(site)
    async with site.registry(site.s3.endpoint, 60.0) as client:
        visible = {
            adapter.name: version
            async for adapter in client.adapters()
            async for version in client.versions(adapter.name)
        }
        named = {file.digest for version in visible.values() for file in version.manifest.files}
        wrong = [*books.wrong, *bucket.wrong_hashes()]
        wrong += [f"lost: {name}" for name in books.sure - visible.keys()]
        wrong += [f"not deleted: {name}" for name in visible.keys() - books.sure - books.torn]
        wrong += [f"lost: {digest}" for digest in (books.loose | named) - bucket.digests()]
        wrong += [f"lost: {digest}" for digest in await client.find_missing(sorted(books.loose | named))]
        await client.collect_garbage(grace=timedelta())
    left = {key for digest in named for key in bucket.keys_of(digest)} ^ bucket.keys()
    return wrong + [f"left over or missing: {key}" for key in left | bucket.uploads()]


class Bucket:
    """A bucket as S3 itself shows it."""

    def __init__(self, site: Site) -> None:
        self._name = site.bucket
        self._client = boto3.client(
            "s3",
            endpoint_url=site.s3.endpoint,
            region_name=site.s3.region,
            aws_access_key_id=site.s3.access_key_id,
            aws_secret_access_key=site.s3.secret_access_key,
        )

    def keys(self) -> set[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name)
        return {found["Key"] for page in pages for found in page.get("Contents", [])}

    def digests(self) -> set[str]:
        return {f"sha256:{key.rpartition('/')[2]}" for key in self.keys() if "/blobs/" in key}

    def keys_of(self, digest: str) -> list[str]:
        """Of what makes a blob visible, and of the data that it names, where it is a marker."""
        key = f"registry/blobs/sha256/{digest.removeprefix('sha256:')}"
        try:
            named = self._client.head_object(Bucket=self._name, Key=key)["Metadata"].get("lorry-data")
        except ClientError:
            named = None
        return [key] if named is None else [key, f"registry/{named}"]

    def uploads(self) -> set[str]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._name)
        return {found["Key"] for page in pages for found in page.get("Uploads", [])}

    def wrong_hashes(self) -> list[str]:
        """Of visible blobs; and whatever is in quarantine, since nothing was damaged in here."""
        wrong = [key for key in self.keys() if "/quarantine/" in key]
        for digest in self.digests():
            key = self.keys_of(digest)[-1]
            body = self._client.get_object(Bucket=self._name, Key=key)["Body"].read()
            if hashlib.sha256(body).hexdigest() != digest.removeprefix("sha256:"):
                wrong.append(f"corrupt: {key}")
        return wrong
