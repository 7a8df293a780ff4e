"""A TCP proxy on loopback that cuts every answer after so many bytes.

Knows nothing of what it carries.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


@contextmanager
def cutting_proxy(endpoint: str | None, after: int) -> Iterator[str]:
    """URL of a proxy to `endpoint`; each connection dies when `after` bytes came back."""
    target = urlsplit(endpoint or "")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=_accept, args=(listener, (target.hostname, target.port), after))
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket, target: tuple[str | None, int | None], after: int) -> None:
    with suppress(OSError):  # shut down: the test is over
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, target, after)).start()


def _serve(client: socket.socket, target: tuple[str | None, int | None], after: int) -> None:
    with client, socket.create_connection(target) as server:
        upward = threading.Thread(target=_pass, args=(client, server, None))
        upward.start()
        _pass(server, client, after)
        upward.join()


def _pass(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    """Copy until either side ends or the limit is reached, then end both."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data if limit is None else data[:limit])
            limit = None if limit is None else limit - len(data)
            if limit is not None and limit <= 0:
                break
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
