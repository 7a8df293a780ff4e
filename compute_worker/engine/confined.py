"""Strangers' programs, in a process of their own, of little memory and little time.

Owns both ends of its pipe: orders and answers as JSON, a line each, and the end of a process that did not behave.
Does not know what an order is.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

# Of a processor, for one order.
SECONDS = 2
# Of address space; Python and what it has loaded take some 50 MB.
MEMORY = 512 << 20


class Confined:
    """Begins with the first order, and anew after one that did not end. Any thread.

    module: run as a program, it calls `serve`. seconds: of a processor, for each order.
    """

    def __init__(self, module: str, seconds: int = SECONDS) -> None:
        self._module = module
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def ask(self, order: Mapping[str, object]) -> dict[str, str] | None:
        """The answer; None where the process was ended over it."""
        with self._lock:
            process = self._process or self._begun()
            try:
                _send(process.stdin, json.dumps({"seconds": self._seconds, "order": order}).encode())
                answer = _received(process.stdout)
            except BrokenPipeError:
                answer = None
            if answer is None:
                self._process = None
                self._end()
            return answer

    def _begun(self) -> subprocess.Popen[bytes]:
        # Of this process's environment what Python needs to start; no addresses, no tokens.
        environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        self._process = subprocess.Popen(  # noqa: S603 - a module of ours, by name
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._end = weakref.finalize(self, _end, self._process)
        return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _send(pipe: IO[bytes] | None, message: bytes) -> None:
    if pipe is not None:
        pipe.write(message + b"\n")
        pipe.flush()


def _received(pipe: IO[bytes] | None) -> dict[str, str] | None:
    line = pipe.readline() if pipe is not None else b""
    return json.loads(line) if line.endswith(b"\n") else None


def serve(answer: Callable[[Mapping[str, Any]], Mapping[str, str]]) -> None:
    """The process's own end: answer order after order, each with so much time, until nobody asks any more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin.buffer:
        given, used = json.loads(line), resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + 1 + given["seconds"]
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        sys.stdout.buffer.write(json.dumps(answer(given["order"])).encode() + b"\n")
        sys.stdout.buffer.flush()
