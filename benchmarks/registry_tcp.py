"""A file's bytes through a bare loopback connection, from a process of its own: `registry_tcp.py PORT FILE`.

Owns both ends. Needs the standard library alone, so that the other process is there at once.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

_CHUNK = 1 << 20


def over_tcp(path: Path, into: Path | None = None) -> float:
    """Seconds from the moment when the sender holds all bytes until they have come, or are durable in a file."""
    left = path.stat().st_size
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, __file__, str(server.getsockname()[1]), str(path)]
        with subprocess.Popen(command) as sender:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                began = time.perf_counter()
                connection.sendall(b"g")
                left -= _received(connection, left, into or Path(os.devnull))
                seconds = time.perf_counter() - began
            sender.wait()
    if left:
        raise RuntimeError(f"expected all bytes, {left} of them never came")
    return seconds


def _received(connection: socket.socket, size: int, into: Path) -> int:
    buffer, left = memoryview(bytearray(_CHUNK)), size
    with into.open("wb", buffering=0) as file:
        while left and (received := connection.recv_into(buffer)):
            left -= received
            file.write(buffer[:received])
        if into.is_file():
            os.fsync(file.fileno())
    return size - left


def send(port: int, path: Path) -> None:
    """The other process: say that the bytes are there, wait for the word, send them."""
    data = path.read_bytes()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"r")
        connection.recv(1)
        connection.sendall(data)


if __name__ == "__main__":
    send(int(sys.argv[1]), Path(sys.argv[2]))
