"""A tokenizer without a vocabulary, those that adapters bring, and forms of answers, for the runtime's tests.

Owns what ids mean to the toy engine's callers. An adapter's tokenizer.json is the number that its bytes are
changed by, and its largest id; its chat_template.jinja is what each chat begins with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compute_worker.wording import Constraint
from lorry.errors import InvalidAdapter, InvalidInput

EOS = 256


class ToyTokenizer:
    """UTF-8 bytes, each changed by `key` (exclusive or); one more id ends a text. opening: of each chat."""

    eos_ids = frozenset({EOS})
    vocab_size = EOS + 1

    def __init__(self, key: int = 0, opening: str = "") -> None:
        self.key = key
        self.opening = opening
        self.size = max(EOS, key) + 1

    def encode(self, text: str) -> list[int]:
        return [byte ^ self.key & 0xFF for byte in text.encode()]

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        if any(not role for role, _ in messages):
            raise InvalidInput("a message needs a role")
        return self.encode(self.opening + "".join(f"{role}: {content}\n" for role, content in messages))

    def encode_more(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_pair(self, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
        return (self.encode(prompt) or [EOS]), self.encode(continuation)

    def ready_guide(self, constraint: Constraint, vocab_size: int | None = None) -> ToyGuide | None:
        """None is ever compiled before."""

    def guide(self, constraint: Constraint, vocab_size: int | None = None) -> ToyGuide:
        return ToyGuide(constraint.text, vocab_size or self.vocab_size)

    def beside(self, files: Mapping[str, Path]) -> ToyTokenizer:
        given = {name: path.read_text() for name, path in files.items()}
        if given.get("tokenizer.json") == "broken":
            raise InvalidAdapter("tokenizer.json: broken")
        key, opening = given.get("tokenizer.json", self.key), given.get("chat_template.jinja", self.opening)
        return ToyTokenizer(int(key), opening)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i ^ self.key & 0xFF for i in ids if i < EOS).decode("utf-8", errors="replace")


class ToyGuide:
    """Any letters of the form, as many as it has; a `!` among them is too much for it."""

    def __init__(self, form: str, vocab: int) -> None:
        self._vocab = vocab
        self._letters = form.encode()
        self._taken: list[int] = []
        self.failed = ""

    @property
    def ended(self) -> bool:
        return len(self._taken) >= len(self._letters) or EOS in self._taken

    def allowed(self) -> bytes:
        bits = sum(1 << letter for letter in set(self._letters))
        return bits.to_bytes(-(-self._vocab // 8), "little")

    def take(self, token: int) -> None:
        self._taken.append(token)
        if token == ord("!"):
            self.failed = "a `!`"
