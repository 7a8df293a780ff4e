"""Text and tokens, and the form of an answer: what the runtime and the tokenizer say to each other.

Owns values and Protocols, nothing that runs: who has the tokenizer compiles a form, the scheduler asks
and tells its guide, the sampler sees bits. Does not know schemas, grammars or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Form(StrEnum):
    """How the form of an answer is written down."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form that an answer has."""

    form: Form
    text: str


class Guide(Protocol):
    """What may come next in one answer of a given form. One thread at a time."""

    @property
    def ended(self) -> bool:
        """Whether the text is complete and nothing can be added."""

    @property
    def failed(self) -> str:
        """Why it cannot go on: the form is too complex to be followed; empty where it can."""

    def allowed(self) -> bytes:
        """Which tokens may be drawn now, as StepRow says; where the text may end, those that end it."""

    def take(self, token: int) -> None:
        """Go on with an allowed token that does not end the text."""


class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text."""

    @property
    def vocab_size(self) -> int:
        """Tokens of the model: ids of the base's requests are below this."""

    @property
    def size(self) -> int:
        """Ids that it gives to text are below this."""

    def encode(self, text: str) -> list[int]:
        """Ids of a raw text, the tokenizer's own special tokens added.

        Raises PromptTooLong where it is sure to have more than any request may, without cutting all of it;
        InvalidInput where the tokenizer fails over it.
        """

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Ids of a conversation of (role, content), ready for the answer. Raises InvalidInput, and as `encode`."""

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that goes on after others: no special tokens are added. Raises as `encode`."""

    def encode_pair(self, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both, tokenised as one text; the continuation has what is behind the prompt's own tokens.

        White space at the prompt's end goes to the continuation, to which tokenizers join it. An empty
        prompt is the token that begins a text. Raises InvalidInput where there is no such token.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; incomplete characters come out as U+FFFD."""

    def ready_guide(self, constraint: Constraint, vocab_size: int | None = None) -> Guide | None:
        """As `guide`, where the form was compiled before; None where it was not. Any thread; waits for nobody."""

    def guide(self, constraint: Constraint, vocab_size: int | None = None) -> Guide:
        """A guide for one answer, from its first token on. vocab_size: bits of its masks, None: the model's.

        Any thread; slow where the form is new. Raises InvalidGrammar, UnsupportedModel.
        """

    def beside(self, files: Mapping[str, Path]) -> Tokenizer:
        """What an adapter of this model brings along, by file name: a tokenizer, or a chat template for this one.

        Runs nothing of it here. Any thread; slow. Raises InvalidAdapter, UnsupportedAdapter, OSError.
        """
