"""What streams of bytes leave behind in the registry's process; what they answer is told in tests/conformance."""

from __future__ import annotations

import hashlib

import psutil

from lorry.rpc.chunks import CHUNK_BYTES
from lorry.v1 import blob_pb2
from tests.support.registry import DEADLINE, Client, until

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
