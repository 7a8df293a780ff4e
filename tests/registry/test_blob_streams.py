"""What streams of bytes leave behind in the registry's process; what they answer is told in tests/conformance."""

from __future__ import annotations

import hashlib

import psutil
import pytest

from adapter_registry.rpc import blobs
from lorry.errors import Unavailable
from lorry.format.digest import digest_of
from lorry.rpc.calls import translated
from lorry.rpc.chunks import CHUNK_BYTES
from lorry.v1 import blob_pb2
from tests.support.registry import DEADLINE, Client, until
from tests.support.uploads import chunks, header

DATA = hashlib.shake_256(b"blob").digest(3 * CHUNK_BYTES + 17)


async def test_reads_that_are_left_early_leave_no_file_open(client: Client) -> None:
    file = await client.put(DATA)
    await client.get(file.digest)
    before = psutil.Process().num_fds()
    for _ in range(20):
        call = client.blobs.Read(blob_pb2.ReadRequest(digest=file.digest), timeout=DEADLINE)
        await call.read()
        call.cancel()

    async def all_closed() -> bool:
        return psutil.Process().num_fds() <= before

    await until(all_closed)


@pytest.mark.parametrize("said", [1, 2])
async def test_an_upload_whose_sender_falls_silent_is_broken_off(
    client: Client, monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    await client.put(b"the first to connect")
    before = psutil.Process().num_fds()
    monkeypatch.setattr(blobs, "_SILENCE_SECONDS", 0.2)
    call = client.blobs.Upload(timeout=DEADLINE)
    for message in [header(digest_of(DATA), len(DATA)), *chunks(DATA)][:said]:
        await call.write(message)
    with pytest.raises(Unavailable, match=r"within 0\.2 s"), translated():
        await call
    kept = await client.blobs.QueryUpload(blob_pb2.QueryUploadRequest(digest=digest_of(DATA)), timeout=DEADLINE)
    assert kept.committed_bytes == (CHUNK_BYTES if said == 2 else 0)
    assert psutil.Process().num_fds() <= before
