"""Bytes out of both kinds of storage: any part of a blob, and no wrong byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adapter_registry.blobs.protocol import BLOCK_BYTES
from lorry.errors import CorruptBlob, OutOfRange, StorageUnavailable
from tests.support.sending import DATA, DIGEST, read, read_until_it_fails, send, used, write
from tests.support.upkeep import Parts, Place, parts_at


@pytest.fixture
def parts(place: Place) -> Iterator[Parts]:
    with parts_at(place) as parts:
        yield parts


async def test_any_part_is_exact_and_one_beyond_the_end_is_refused(parts: Parts) -> None:
    await send(parts, "ours")
    for offset in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, len(DATA) - 1, len(DATA)):
        for limit in (0, 1, 2, BLOCK_BYTES, 1 << 40):
            assert await read(parts, offset, limit) == DATA[offset : offset + limit if limit else None]
    with pytest.raises(OutOfRange):
        await read(parts, len(DATA) + 1)


@pytest.mark.parametrize("blocks_known", [True, False])
async def test_no_byte_of_a_damaged_block_is_sent_and_sending_it_again_heals(
    parts: Parts, *, blocks_known: bool
) -> None:
    await send(parts, "ours")
    if not blocks_known:
        write(parts, blocks=None)
    parts.place.spoil(DIGEST)  # the last byte, so the first two blocks are right
    sent = bytearray()
    with pytest.raises(CorruptBlob):
        await read_until_it_fails(parts, sent)
    assert sent == (DATA[: 2 * BLOCK_BYTES] if blocks_known else b"")
    assert [aside.digest for aside in parts.store.quarantined()] == [DIGEST]
    assert await parts.blobs().missing([DIGEST], "ours") == [DIGEST]
    with pytest.raises(CorruptBlob, match="send them again"):
        await read(parts)
    assert await send(parts, "ours") is False
    assert await read(parts) == DATA
    assert used(parts, "ours") == len(DATA)


async def test_a_sound_part_of_a_damaged_blob_is_still_right(parts: Parts) -> None:
    await send(parts, "ours")
    parts.place.spoil(DIGEST)
    assert await read(parts, 5, BLOCK_BYTES) == DATA[5 : BLOCK_BYTES + 5]


async def test_what_has_the_wrong_size_is_damaged(parts: Parts) -> None:
    await send(parts, "ours")
    write(parts, size=len(DATA) + 1)
    with pytest.raises((CorruptBlob, StorageUnavailable)):
        await read(parts)


async def test_blocks_that_nobody_knew_are_computed_once(parts: Parts) -> None:
    await send(parts, "ours")
    before = parts.catalog.find([DIGEST])[DIGEST].blocks
    write(parts, blocks=None)
    assert await read(parts, BLOCK_BYTES, 1) == DATA[BLOCK_BYTES : BLOCK_BYTES + 1]
    assert parts.catalog.find([DIGEST])[DIGEST].blocks == before is not None
