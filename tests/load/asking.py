"""What a client of the load asks for, drawn at random.

Owns the mix: which selections, prompts, ways to draw, forms and conditions, and how often each. The same
draw gives the same request. Does not know what is right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compute_worker.contract import Sampling
from compute_worker.wording import Constraint, Form
from lorry.generation import WHOLE
from tests.load.meanings import Selection
from tests.load.stock import ALONE, MOVING, PLAIN, alias_of

ROUTES = ("default", "tour", "canary")
TENANTS = ("", "north", "south", "greedy")
# Prompts begin alike, so that the prefix cache has work: one to three blocks of 16 tokens, full or not.
_OPENINGS = (
    "the quick brown fox",
    "jumps over the lazy dog, and then over another one",
    "0123456789abcdef0123456789abcdef",
    "Q: what is the capital of nowhere?\nA:",
    "x",
)
_LETTERS = "abcdefghij ,.?"
_FORMS = (
    Constraint(Form.REGEX, "[a-f]{3,9}"),
    Constraint(Form.JSON_SCHEMA, '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'),
    Constraint(Form.GRAMMAR, 'start: ("ab" | "cd" | "e")+ "."'),
)
_WEIGHTS = (1.0, 0.5, -1.0, 2.0)


@dataclass(frozen=True)
class Asked:
    """A request. target: adapters with weights, or a route. session: empty for none; `target` is what it began with.

    begin_within, timeout: seconds, 0 for none. patience: tokens after which the client leaves, None: never.
    """

    target: Selection | str
    prompt: str
    max_new: int
    sampling: Sampling = field(default_factory=Sampling)
    chat: bool = False
    ignore_eos: bool = True
    form: Constraint | None = None
    scale: float = 1.0
    session: str = ""
    follow: bool = False
    tenant: str = ""
    priority: int = 0
    begin_within: float = 0.0
    stream_interval: int = 1
    timeout: float = 0.0
    patience: int | None = None

    def options(self) -> dict[str, Any]:
        """As WorkerClient.generate takes it."""
        drawn = self.sampling
        prompt: dict[str, Any] = (
            {"prompt": None, "messages": [("user", self.prompt)]} if self.chat else {"prompt": self.prompt}
        )
        form = {str(self.form.form): self.form.text} if self.form else {}
        session = {"session": self.session, "follow": self.follow} if self.session else {}
        target = {"route": self.target} if isinstance(self.target, str) else {"adapters": list(self.target)}
        return {
            **prompt,
            **form,
            **session,
            **target,
            "max_new_tokens": self.max_new,
            "ignore_eos": self.ignore_eos,
            "temperature": drawn.temperature,
            "top_k": drawn.top_k,
            "top_p": drawn.top_p,
            "min_p": drawn.min_p,
            "repetition_penalty": drawn.repetition_penalty,
            "seed": drawn.seed,
            "logprobs": drawn.logprobs,
            "scale": self.scale,
            "tenant": self.tenant,
            "priority": self.priority,
            "begin_within": self.begin_within or None,
            "stream_interval": self.stream_interval,
        }


def draw_request(draw: random.Random, combined: Sequence[str]) -> Asked:
    """The next request. combined: references of the combinations that there are."""
    target = draw.choice(ROUTES) if draw.random() < 0.2 else draw_selection(draw, combined)
    form = draw.choice(_FORMS) if draw.random() < 0.15 else None
    return Asked(
        target,
        draw_prompt(draw),
        max_new=draw.randint(1, 10),
        sampling=_draw_sampling(draw),
        chat=draw.random() < 0.15,
        ignore_eos=form is None and draw.random() < 0.8,
        form=form,
        scale=draw.choice(_WEIGHTS) if _may_be_scaled(target) and draw.random() < 0.2 else 1.0,
        tenant=draw.choice(TENANTS),
        priority=draw.choice((-1, 0, 0, 1)),
        begin_within=0.05 if draw.random() < 0.03 else 0.0,
        stream_interval=draw.choice((1, 1, 1, 3, WHOLE)),
        timeout=0.05 if draw.random() < 0.03 else 0.0,
        patience=draw.randint(0, 6) if draw.random() < 0.06 else None,
    )


def draw_turn(draw: random.Random, session: str, target: Selection | str, *, follow: bool) -> Asked:
    """The next turn of a session."""
    asked = draw_request(draw, ())
    return replace(asked, session=session, target=target, follow=follow, scale=1.0, patience=None)


def draw_session(draw: random.Random) -> Selection | str:
    """What a session begins with: something that moves."""
    return draw.choice((*ROUTES, *(((alias_of(name), 1.0),) for name in MOVING)))


def draw_selection(draw: random.Random, combined: Sequence[str]) -> Selection:
    """The base, one adapter, or several with weights."""
    plain = [f"{name}@1" for name in PLAIN] + [alias_of(name) for name in MOVING] * 3
    match draw.randrange(8):
        case 0:
            return ()
        case 1:
            return ((f"{draw.choice(list(ALONE))}@1", 1.0),)
        case 2 if combined:
            return ((draw.choice(combined), draw.choice(_WEIGHTS)),)
        case 3 | 4:
            several = dict.fromkeys(draw.sample(plain, draw.randint(2, 3)))
            return tuple((reference, draw.choice(_WEIGHTS)) for reference in several)
        case _:
            return ((draw.choice(plain), draw.choice(_WEIGHTS)),)


def draw_prompt(draw: random.Random) -> str:
    """An opening that others have, too, and perhaps an end of its own."""
    end = "".join(draw.choice(_LETTERS) for _ in range(draw.choice((0, 0, 2, 7))))
    return draw.choice(_OPENINGS) + end


def _draw_sampling(draw: random.Random) -> Sampling:
    logprobs = 0 if draw.random() < 0.1 else None
    penalty = draw.choice((1.0, 1.0, 1.0, 1.3))
    if draw.random() < 0.5:
        return Sampling(repetition_penalty=penalty, logprobs=logprobs)
    return Sampling(
        temperature=draw.choice((0.7, 1.0, 1.5)),
        top_k=draw.choice((0, 0, 5, 20)),
        top_p=draw.choice((1.0, 1.0, 0.9)),
        min_p=draw.choice((0.0, 0.0, 0.05)),
        repetition_penalty=penalty,
        seed=draw.getrandbits(32),
        logprobs=logprobs,
    )


def _may_be_scaled(target: Selection | str) -> bool:
    """Routes may have what stands alone."""
    return not isinstance(target, str) and not any(reference.partition("@")[0] in ALONE for reference, _ in target)
