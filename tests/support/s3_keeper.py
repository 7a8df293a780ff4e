"""Runs one SeaweedFS for as long as somebody uses it: `s3_keeper.py FOLDER PORT`.

A user is whoever holds a shared lock on FOLDER/users; the kernel drops it however the user dies, and
then the keeper stops the server and takes FOLDER/server away. The server dies with its keeper.
Knows nothing of pytest; needs the standard library alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ACCESS_KEY = "lorry-test-key"
SECRET_KEY = "lorry-test-secret"  # noqa: S105 - of a server that lives on loopback for one test run
# `weed` offers gRPC at the HTTP port plus this, and parts of it assume so.
GRPC_OFFSET = 10_000
# One HTTP port each, from the given one on.
SERVERS = ("s3", "master", "volume", "filer", "admin")
_PR_SET_PDEATHSIG = 1
_RAM_DISK = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
# The whole suite writes some 2 GB, most of which is deleted again.
_ROOM_BYTES = 6 << 30


def command(folder: Path, port: int) -> list[str]:
    """The server's command line; S3 listens on `port`."""
    ports = [
        f"-{name}.{kind}={port + index + offset}"
        for index, name in enumerate(SERVERS)
        for kind, offset in (("port", 0), ("port.grpc", GRPC_OFFSET))
    ]
    sockets = [f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")]
    return [
        str(Path(sys.executable).with_name("weed")),
        "mini",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *ports,
        *sockets,
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
    ]


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the server, to die with this process."""
    (folder / "data").mkdir(exist_ok=True)
    environment = os.environ | {
        "GOMEMLIMIT": "256MiB",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command(folder, port),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread is running here
        )


def stop(server: subprocess.Popen[bytes], port: int) -> None:
    """Kill the server and remove the sockets that it leaves in the temporary folder."""
    server.kill()
    server.wait()
    for index, name in enumerate(SERVERS):
        socket = Path("/tmp") / f"seaweedfs-{name}-grpc-{port + index + GRPC_OFFSET}.sock"  # noqa: S108 - weed's choice
        socket.unlink(missing_ok=True)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Keep a server until its last user is gone."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    memory = _on_ram_disk(folder / "data")
    server = start(folder, port)
    try:
        with (folder / "users").open("ab") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            stop(server, port)
            (folder / "server").unlink()
            shutil.rmtree(folder / "data", ignore_errors=True)
    finally:
        stop(server, port)
        if memory is not None:
            shutil.rmtree(memory, ignore_errors=True)


def _on_ram_disk(data: Path) -> Path | None:
    """Let `data` lie in memory where there is room: what is tested is the server's word, not the disk's speed."""
    if not _RAM_DISK.is_dir() or shutil.disk_usage(_RAM_DISK).free < _ROOM_BYTES:
        return None
    memory = Path(tempfile.mkdtemp(prefix="lorry-s3-", dir=_RAM_DISK))
    data.symlink_to(memory)
    return memory


if __name__ == "__main__":
    main()
