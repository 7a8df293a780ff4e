"""The model's tokenizer: text to ids and back, conversations through its template.

Owns which ids end a text, and where one begins. Does not know streaming, stop strings or how an answer comes about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jinja2
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from compute_worker.engine.grammar import Forms
from compute_worker.wording import Constraint, Guide
from lorry.errors import InvalidInput


class HfTokenizer:
    """Tokenizer over transformers'.

    vocab_size: rows of the model's embedding, which may be more than the tokenizer has tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int], vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._vocab_size = vocab_size
        self._forms = Forms(tokenizer, vocab_size, eos_ids)

    @classmethod
    def load(cls, path_or_id: str, config: PretrainedConfig) -> HfTokenizer:
        """The tokenizer beside a model. Raises InvalidInput where there is none."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(path_or_id)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"expected a tokenizer in {path_or_id}: {error}") from error
        claims = (tokenizer.eos_token_id, config.eos_token_id, _generation_eos(path_or_id))
        return cls(tokenizer, frozenset(eos for claim in claims for eos in _ids(claim)), config.vocab_size)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text, by the tokenizer, the model and its generation settings together."""
        return self._eos_ids

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return self._vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of a raw text, the tokenizer's own special tokens added."""
        return list(self._tokenizer(text)["input_ids"])

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that goes on after others: no special tokens are added."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

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
        if not self._tokenizer.chat_template:
            raise InvalidInput("the model has no chat template: send text or token ids")
        conversation = [{"role": role, "content": content} for role, content in messages]
        try:
            ids = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        except jinja2.TemplateError as error:
            raise InvalidInput(f"the model's chat template refuses the conversation: {error}") from error
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; incomplete characters come out as U+FFFD."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def guide(self, constraint: Constraint) -> Guide:
        """A guide for one answer; see Tokenizer. Raises InvalidGrammar, UnsupportedModel."""
        return self._forms.guide(constraint)


def _generation_eos(path_or_id: str) -> object:
    try:
        return GenerationConfig.from_pretrained(path_or_id).eos_token_id
    except OSError:  # a model need not have generation settings
        return None


def _ids(claim: object) -> Iterator[int]:
    """An id, several, or none."""
    return (eos for eos in (claim if isinstance(claim, list) else [claim]) if isinstance(eos, int))
