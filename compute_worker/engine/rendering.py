"""Chat templates of strangers, rendered in a process of their own.

Owns what templates see: the environment is the one that transformers gives them. A template is a program:
jinja's sandbox keeps it from files and objects, but not from counting to 10^12 or doubling a text 60 times, so
a process that may be killed does it; one of 10 KB over 1,000 messages takes some 20 ms. Does not know tokens, nor
whose template it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, ext, nodes, parser, utils
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from compute_worker.engine.confined import MEMORY, SECONDS, Confined, serve
from lorry.errors import InvalidInput

# A context of a million tokens has some 4 million characters.
_MAX_CHARACTERS = 8 << 20
# What a template says of itself goes into a caller's message.
_MAX_ERROR = 200


class Renderer:
    """Renders, one conversation at a time. Any thread. seconds: of a processor, for each of them."""

    def __init__(self, seconds: int = SECONDS) -> None:
        self._seconds = seconds
        self._process = Confined("compute_worker.engine.rendering", seconds)

    def render(self, template: str, messages: Sequence[Mapping[str, str]], special: Mapping[str, str]) -> str:
        """The conversation as text, ready for the answer. Raises InvalidInput where the template fails."""
        answer = self._process.ask({"template": template, "messages": list(messages), "special": dict(special)})
        if answer is None:
            raise InvalidInput(
                f"the adapter's chat template was ended: it may take {self._seconds} seconds and {MEMORY >> 20} MB"
            )
        if "error" in answer:
            raise InvalidInput(f"the adapter's chat template refuses the conversation: {answer['error']}")
        return answer["text"]


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


if __name__ == "__main__":
    serve(rendered)
