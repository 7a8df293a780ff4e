"""Chat templates of strangers, rendered in a process of their own, of little memory and little time.

Owns both ends of the pipe. A template is a program: jinja's sandbox keeps it from files and objects, but
not from counting to 10^12 or doubling a text 60 times, so a process that may be killed does it. The
environment is the one that transformers gives templates. Does not know tokens, nor whose template it is.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import IO, Any

from jinja2 import TemplateError, ext, nodes, parser, utils
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorry.errors import InvalidInput

# A template of 10 KB over 1,000 messages takes some 20 ms.
_CPU_SECONDS = 2
# Of address space; Python and jinja take some 50 MB.
_MEMORY = 512 << 20
# A context of a million tokens has some 4 million characters.
_MAX_CHARACTERS = 8 << 20
# What a template says of itself goes into a caller's message.
_MAX_ERROR = 200


class Renderer:
    """Renders in a process that begins with the first template, and anew after one that did not behave. Any thread.

    seconds: of a processor, for each conversation.
    """

    def __init__(self, seconds: int = _CPU_SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def render(self, template: str, messages: Sequence[Mapping[str, str]], special: Mapping[str, str]) -> str:
        """The conversation as text, ready for the answer. Raises InvalidInput where the template fails."""
        order = {"template": template, "messages": list(messages), "special": dict(special), "seconds": self._seconds}
        with self._lock:
            answer = self._ask(json.dumps(order).encode())
        if answer is None:
            raise InvalidInput(
                f"the adapter's chat template was ended: it may take {self._seconds} seconds and {_MEMORY >> 20} MB"
            )
        if "error" in answer:
            raise InvalidInput(f"the adapter's chat template refuses the conversation: {answer['error']}")
        text: str = answer["text"]
        return text

    def _ask(self, order: bytes) -> dict[str, str] | None:
        process = self._process or self._begun()
        try:
            _send(process.stdin, order)
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
        self._process = subprocess.Popen(
            [sys.executable, "-m", "compute_worker.engine.rendering"],
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


class _Generation(ext.Extension):
    """`{% generation %}`, which marks what the assistant said; here it shows what is inside."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own form

    def parse(self, reading: parser.Parser) -> nodes.Node:
        """A block of its own, as transformers has it: what is set inside does not reach out."""
        line = next(reading.stream).lineno
        body = reading.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` as templates may use it: Python's own leads to all of Python."""

    def __call__(self, *args: Any, **fields: Any) -> dict[Any, Any]:
        return dict(*args, **fields)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Python's."""
        return dict.fromkeys(*args)


class _Namespace(utils.Namespace):
    """A namespace whose names cannot lead to Python's own."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        names = dict(*args, **fields)
        for name in names:
            _check_name(name)
        super().__init__(names)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"{name}: names of a namespace do not begin with an underscore")


def environment() -> ImmutableSandboxedEnvironment:
    """What transformers' chat templates see."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    made.globals["dict"] = _Dict()
    made.globals["namespace"] = _Namespace
    return made


def _tojson(value: object, ensure_ascii: bool = False, **options: Any) -> str:  # noqa: FBT001, FBT002 - as templates call it
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: object) -> None:
    raise TemplateError(str(message))


def rendered(order: Mapping[str, Any]) -> dict[str, str]:
    """`text`, or `error`: what a template makes of a conversation."""
    try:
        template = environment().from_string(order["template"])
        given = {"messages": order["messages"], "tools": None, "documents": None, "add_generation_prompt": True}
        text = template.render(given | order["special"])
    except Exception as error:  # noqa: BLE001 - a template fails as any program does; what it says is the answer
        return {"error": f"{type(error).__name__}: {error}"[:_MAX_ERROR]}
    return {"text": text} if len(text) <= _MAX_CHARACTERS else {"error": f"a text of {len(text)} characters"}


def _serve() -> None:
    """Answer order after order, each with so much time, until nobody asks any more."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin.buffer:
        order, used = json.loads(line), resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + 1 + order["seconds"]
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        sys.stdout.buffer.write(json.dumps(rendered(order)).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
