"""The model's tokenizer, and those that adapters bring: text to ids and back, conversations through a template.

Owns which ids end a text, and where one begins. Does not know streaming, stop strings or how an answer comes
about, nor what of a stranger's files is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import jinja2
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from compute_worker.engine.brought import brought_template, brought_tokenizer, panics
from compute_worker.engine.grammar import Forms
from compute_worker.engine.rendering import Renderer
from compute_worker.engine.trial import Trials
from compute_worker.wording import Constraint, Guide
from lorry.checkpoint import located
from lorry.errors import InvalidInput, PromptTooLong

# Of one tokenizer: the model's, and those of adapters that resized it. Some 10 MB each, once a form was asked for.
_VOCABULARIES = 4
# Characters that are looked at first of a long text, for each token that it may have: a token of English has some 4.
_FIRST_LOOK = 8
# Tokens that what a cut leaves of the last one may be: the longest that were seen have some 500 characters.
_AT_A_CUT = 512
# Text of a conversation of (role, content), ready for the answer. Raises InvalidInput.
Template: TypeAlias = Callable[[Sequence[tuple[str, str]]], str]


@dataclass(frozen=True, slots=True)
class Strangers:
    """Processes for what strangers wrote, shared by all tokenizers of a model."""

    renderer: Renderer = field(default_factory=Renderer)
    trials: Trials = field(default_factory=Trials)


class HfTokenizer:
    """Tokenizer over transformers'.

    vocab_size: rows of the model's embedding, which may be more than the tokenizer has tokens. template: the
    tokenizer's own where none is given. forms: by vocabulary, of another that has the same tokens. original: the
    tokenizer.json that it was loaded from, where there was one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: frozenset[int],
        vocab_size: int,
        *,
        template: Template | None = None,
        forms: dict[int, Forms] | None = None,
        strangers: Strangers | None = None,
        original: Path | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._vocab_size = vocab_size
        self._template = template or self._trusted
        self._forms = {} if forms is None else forms
        self._strangers = strangers or Strangers()
        self._original = original
        self._most: int | None = None

    @classmethod
    def load(cls, path_or_id: str, config: PretrainedConfig) -> HfTokenizer:
        """The tokenizer beside a model. Raises InvalidInput where there is none."""
        place, naming = located(path_or_id)
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, **naming)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"expected a tokenizer in {path_or_id}: {error}") from error
        claims = (tokenizer.eos_token_id, config.eos_token_id, _generation_eos(place, naming))
        ends = frozenset(eos for claim in claims for eos in _ids(claim))
        return cls(tokenizer, ends, config.vocab_size, original=_original(place, naming))

    def limit(self, tokens: int | None) -> None:
        """How many a text may have from now on, None for any; one that has many more is not cut to its end."""
        self._most = tokens

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text, by the tokenizer, the model and its generation settings together."""
        return self._eos_ids

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return self._vocab_size

    @cached_property
    def size(self) -> int:
        """Ids that it gives to text are below this."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a raw text, the tokenizer's own special tokens added. Raises PromptTooLong, InvalidInput."""
        return self._cut(text, ends=True)

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that goes on after others: no special tokens are added. Raises as `encode`."""
        return self._cut(text, ends=False)

    def _cut(self, text: str, *, ends: bool) -> list[int]:
        """Ids of a text. Raises PromptTooLong where already a part of it has too many, InvalidInput."""
        size = len(text) if self._most is None else _FIRST_LOOK * self._most
        while size < len(text):
            if self._most is not None and len(self._whole(text[:size], ends=False)) > self._most + _AT_A_CUT:
                raise PromptTooLong(f"the context holds {self._most} tokens; the first {size} characters have more")
            size *= 2
        return self._whole(text, ends=ends)

    def _whole(self, text: str, *, ends: bool) -> list[int]:
        with panics(InvalidInput, "the tokenizer fails over this text"):
            return list(self._tokenizer(text, add_special_tokens=ends)["input_ids"])

    def encode_pair(self, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both as lm-evaluation-harness cuts them; see Tokenizer. Raises InvalidInput."""
        if not prompt:
            return self._beginning(self.encode_more(continuation))
        stripped = prompt.rstrip()
        before = self.encode(stripped)
        whole = self.encode(prompt + continuation)
        return (before, whole[len(before) :]) if before else self._beginning(whole)

    def _beginning(self, tokens: list[int]) -> tuple[list[int], list[int]]:
        """The token that begins a text, and what follows it; it is not there twice."""
        begin = next(_ids([self._tokenizer.bos_token_id, self._tokenizer.eos_token_id]), None)
        if begin is None:
            raise InvalidInput("expected a prompt of at least one token: the tokenizer has none that begins a text")
        return [begin], tokens[1:] if tokens[:1] == [begin] else tokens

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Ids of a conversation, ready for the answer.

        Raises InvalidInput where there is no template, or the template refuses the conversation.
        """
        return self.encode_more(self._template(messages))

    def _trusted(self, messages: Sequence[tuple[str, str]]) -> str:
        """Through the model's own template, here: who chose the model chose it, too."""
        if not self._tokenizer.chat_template:
            raise InvalidInput("the model has no chat template: send text or token ids")
        try:
            text = self._tokenizer.apply_chat_template(_fields(messages), add_generation_prompt=True, tokenize=False)
        except jinja2.TemplateError as error:
            raise InvalidInput(f"the model's chat template refuses the conversation: {error}") from error
        return str(text)

    def beside(self, files: Mapping[str, Path]) -> HfTokenizer:
        """What an adapter of this model brings along; see Tokenizer."""
        own = self._beside(files)
        own.limit(self._most)
        return own

    def _beside(self, files: Mapping[str, Path]) -> HfTokenizer:
        """Where the model's ends of a text are spelled alike in an own tokenizer, they are ends there."""
        template = brought_template(files)
        if "tokenizer.json" not in files:
            return HfTokenizer(
                self._tokenizer,
                self._eos_ids,
                self._vocab_size,
                template=self._template if template is None else self._strange(template, self._tokenizer),
                forms=self._forms,
                strangers=self._strangers,
            )
        own = brought_tokenizer(files, self._tokenizer, self._original)
        spelled = {eos: self._tokenizer.convert_ids_to_tokens(eos) for eos in self._eos_ids}
        ends = {eos for eos, token in spelled.items() if token and own.backend_tokenizer.id_to_token(eos) == token}
        ends.update(_ids(own.eos_token_id))
        strange = _absent if template is None else self._strange(template, own)
        return HfTokenizer(own, frozenset(ends), self._vocab_size, template=strange, strangers=self._strangers)

    def _strange(self, template: str, tokenizer: PreTrainedTokenizerBase) -> Template:
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        return lambda messages: self._strangers.renderer.render(template, _fields(messages), special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; incomplete characters come out as U+FFFD."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def ready_guide(self, constraint: Constraint, vocab_size: int | None = None) -> Guide | None:
        """A guide for one answer, where that takes no time; see Tokenizer. Raises InvalidGrammar."""
        return self.forms(vocab_size).ready(constraint)

    def guide(self, constraint: Constraint, vocab_size: int | None = None) -> Guide:
        """A guide for one answer; see Tokenizer. Raises InvalidGrammar, UnsupportedModel."""
        return self.forms(vocab_size).guide(constraint)

    def forms(self, vocab_size: int | None) -> Forms:
        """What compiles forms for a vocabulary of this size."""
        vocab_size = self._vocab_size if vocab_size is None else vocab_size
        if vocab_size not in self._forms:
            if len(self._forms) >= _VOCABULARIES:
                self._forms.clear()
            ends = [eos for eos in self._eos_ids if eos < vocab_size]
            self._forms[vocab_size] = Forms(self._tokenizer, vocab_size, ends, self._strangers.trials)
        return self._forms[vocab_size]


def _fields(messages: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def _absent(_: Sequence[tuple[str, str]]) -> str:
    raise InvalidInput("the adapter's tokenizer has no chat template: send text or token ids")


def _original(place: str, naming: Mapping[str, str]) -> Path | None:
    found = None if naming else cached_file(place, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _generation_eos(place: str, naming: Mapping[str, str]) -> object:
    if naming:  # a GGUF file has none, and what lies beside it may be another model's
        return None
    try:
        return GenerationConfig.from_pretrained(place).eos_token_id
    except OSError:  # a model need not have generation settings
        return None


def _ids(claim: object) -> Iterator[int]:
    """An id, several, or none."""
    return (eos for eos in (claim if isinstance(claim, list) else [claim]) if isinstance(eos, int))
