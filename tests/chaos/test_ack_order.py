"""The kernel sees every sync of an upload before the caller sees its answer: kill -9 cannot show a missing one."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lorry.format.digest import digest_of
from tests.support.registry import Client

# `make chaos` asks for 100.
UPLOADS = int(os.environ.get("CHAOS_TRACED", "5"))
_START_SECONDS = 120.0
SENDS = ("sendmsg", "sendto", "write", "writev")
_CALLS = ",".join(["fsync", "fdatasync", "rename", "renameat", "renameat2", *SENDS])


@contextmanager
def traced_registry(folder: Path, log: Path) -> Iterator[str]:
    """`host:port` of a registry on SQLite and files, under strace."""
    port_file = folder / "port"
    environment = {"LORRY_REGISTRY_LISTEN": "127.0.0.1:0", "LORRY_REGISTRY_DATA_DIR": str(folder / "data")}
    # Strings long enough for an answer, in which the digest of the blob can be read.
    tracer = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "400", "-e", f"trace={_CALLS}", "-o", str(log)]
    registry = [sys.executable, "-m", "adapter_registry", "serve", "--port-file", str(port_file)]
    process = subprocess.Popen(
        [*tracer, *registry], env={**os.environ, **environment}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        limit = time.monotonic() + _START_SECONDS
        while not port_file.exists():
            assert process.poll() is None, "strace or the registry ended"
            assert time.monotonic() < limit, "the registry did not start"
            time.sleep(0.05)
        yield port_file.read_text().strip()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_file_folder_and_commit_are_synced_before_the_answer_is_sent(tmp_path: Path) -> None:
    log, draw = tmp_path / "trace", random.Random(1)  # noqa: S311 - bytes to store
    blobs = [draw.randbytes(draw.randint(0, 50_000)) for _ in range(UPLOADS)]
    with traced_registry(tmp_path, log) as target:
        async with Client(target) as client:
            for data in blobs:
                await client.put(data)
    calls = list(calls_of(log.read_text()))
    in_order = [data for data in blobs if is_in_order(digest_of(data), calls)]
    sys.stdout.write(f"{len(in_order)}/{len(blobs)} in order\n")
    assert len(in_order) == len(blobs), "\n".join(calls)


def calls_of(trace: str) -> Iterator[str]:
    """Every call of any thread: what is sent at its beginning, everything else at its end."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.lstrip()
        if call.startswith(SENDS):
            yield call
        elif call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix(" <unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            if thread in begun:
                yield begun.pop(thread) + resumed[1]
        else:
            yield call


def is_in_order(digest: str, calls: list[str]) -> bool:
    """Whether each step of the blob's upload comes behind the one before."""
    name = digest.removeprefix("sha256:")
    folder = rf"/blobs/sha256/{name[:2]}"
    steps = [
        rf"fsync\(\d+<[^>]*/uploads/[^>]*{name}\.\w+>\) += 0",
        rf"rename\w*\(.*{folder}/{name}\".*\) += 0",
        rf"fsync\(\d+<[^>]*{folder}>\) += 0",
        r"f(?:data)?sync\(\d+<[^>]*/catalog\.db-wal>\) += 0",
        rf"\w+\(\d+<socket:.*{digest}",
    ]
    rest = iter(calls)
    return all(any(re.match(step, call) for call in rest) for step in steps)
