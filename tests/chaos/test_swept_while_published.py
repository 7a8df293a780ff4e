"""What the kill loop found, on its own: a publication whose bytes are swept while they are looked at."""

from __future__ import annotations

import asyncio

import pytest

from adapter_registry.service.publish import Publisher, Submission
from adapter_registry.service.stored import StoredBlobs
from lorry.errors import MissingBlobs
from lorry.format.digest import digest_of
from lorry.format.manifest import ManifestFile
from tests.suites.catalog_values import adapter
from tests.support.adapters import CONFIG, WEIGHTS, adapter_bytes
from tests.support.upkeep import AT_ONCE, Place, Waiting, parts_at


async def test_what_is_swept_while_it_is_being_published_has_to_be_sent_again(place: Place) -> None:
    contents = dict(zip((CONFIG, WEIGHTS), adapter_bytes(), strict=True))
    files = tuple(ManifestFile(name, digest_of(data), len(data)) for name, data in contents.items())
    with parts_at(place) as parts:
        for data in contents.values():
            await parts.send(data)
        store = Waiting(parts.store, "open")
        blobs = StoredBlobs(store, parts.catalog, parts.pools)
        publisher = Publisher(parts.catalog, blobs, parts.pools)
        publishing = asyncio.create_task(publisher.publish(Submission(adapter("cat"), files)))
        await asyncio.to_thread(store.reached.wait)
        await parts.collector().collect(grace=AT_ONCE)
        store.go_on.set()
        with pytest.raises(MissingBlobs, match=files[0].digest):
            await publishing
