"""Forms of answers, compiled against the model's tokens by llguidance.

Owns the compiled forms, of which it keeps the latest, and the guides of answers made from them. Belongs
to one tokenizer, so a form compiled for other tokens is never used. Does not know requests, nor when a
text ends otherwise.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerBase

from compute_worker.wording import Constraint, Form
from lorry.errors import InvalidGrammar, UnsupportedModel

# Schemas leave white space between the parts of a document to the writer, and a model that was not asked for
# JSON writes nothing else. As much as most JSON has; a schema may say more in its "x-guidance".
_WHITE_SPACE = " ?"
# Ways to read a text that are followed at once, and looked at for one mask. Schemas and programming languages
# have some ten; an ambiguous grammar (`x: "a" | x x`) gets one more with each token, and everybody's step waits.
_LIMITS = LLParserLimits(max_items_in_row=500, step_max_items=5_000)
# What a matcher calls it where no token is allowed and the text may not end either.
_STUCK = "NoExtensionBias"
# A compiled form takes 0.1 to some MB; a service asks for the same few again and again.
_KEPT = 64


class Forms:
    """Compiles forms for one tokenizer. Any thread.

    vocab_size: bits of a mask. eos_ids: the tokens that end a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._tokens: LLTokenizer | None = None
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def guide(self, constraint: Constraint) -> FormGuide:
        """A guide from the first token on. Raises InvalidGrammar, UnsupportedModel."""
        with self._lock:  # llguidance compiles without the GIL; two of a kind would be compiled twice
            matcher = self._compiled.get(constraint)
            if matcher is None:
                matcher = _compile(self._prepared(), constraint)
            self._compiled[constraint] = matcher
            self._compiled.move_to_end(constraint)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return FormGuide(matcher.deep_copy(), self._vocab_size)

    def _prepared(self) -> LLTokenizer:
        """The tokens by their bytes: a second or two, so not before somebody asks."""
        if self._tokens is None:
            try:
                self._tokens = from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._eos_ids)
            except ValueError as error:
                raise UnsupportedModel(
                    f"the model's tokenizer does not tell the bytes of its tokens: {error}"
                ) from error
        return self._tokens


class FormGuide:
    """A Guide over llguidance's matcher."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._everything = b"\xff" * (-(-vocab_size // 8))

    @property
    def ended(self) -> bool:
        """See Guide."""
        return self._matcher.is_stopped()

    @property
    def failed(self) -> str:
        """See Guide."""
        error = self._matcher.get_error().partition("\n<state>")[0]
        return "no token goes on with the text" if error == _STUCK else error

    def allowed(self) -> bytes:
        """See Guide. Everything where it failed: what is drawn then is of no use, but somebody draws it."""
        bits = b"" if self._matcher.is_error() else self._matcher.compute_bitmask()
        return self._everything if self._matcher.is_error() else bits

    def take(self, token: int) -> None:
        """See Guide."""
        self._matcher.consume_token(token)


def _compile(tokens: LLTokenizer, constraint: Constraint) -> LLMatcher:
    # log_level 0: what a matcher has to say is in its error.
    matcher = LLMatcher(tokens, _grammar(constraint), log_level=0, limits=_LIMITS)
    first = FormGuide(matcher.deep_copy(), tokens.vocab_size)
    # The first mask shows a form that nothing is of, and builds what all later ones need.
    first.allowed()
    if first.failed:
        raise InvalidGrammar(f"{constraint.form}: {first.failed}")
    return matcher


def _grammar(constraint: Constraint) -> str:
    match constraint.form:
        case Form.REGEX:
            return LLMatcher.grammar_from_regex(constraint.text)
        case Form.GRAMMAR:
            return LLMatcher.grammar_from_lark(constraint.text)
        case Form.JSON_SCHEMA:
            try:
                return LLMatcher.grammar_from_json_schema(
                    constraint.text, defaults={"whitespace_pattern": _WHITE_SPACE}
                )
            except ValueError as error:
                raise InvalidGrammar(f"{constraint.form}: {error}") from error
