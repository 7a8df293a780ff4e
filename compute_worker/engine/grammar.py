"""Forms of answers, compiled against the model's tokens by llguidance.

Owns the compiled forms, and those that were refused, of which it keeps the latest, and the guides made from
them. Belongs to one tokenizer, so a form compiled for other tokens is never used. Does not know requests, nor
when a text ends otherwise.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerBase

from compute_worker.engine.trial import Trials, complaint, matcher
from compute_worker.wording import Constraint
from lorry.errors import InvalidGrammar, UnsupportedModel

# What a matcher calls it where no token is allowed and the text may not end either.
_STUCK = "NoExtensionBias"
# A compiled form takes 0.1 to some MB, 20 at most; a service asks for the same few again and again.
_KEPT = 32


class Forms:
    """Compiles forms for one tokenizer. Any thread.

    vocab_size: bits of a mask. eos_ids: the tokens that end a text. trials: where forms are tried first.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_ids: Iterable[int], trials: Trials
    ) -> None:
        self._trials = trials
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._tokens: LLTokenizer | None = None
        self._compiled: OrderedDict[Constraint, LLMatcher | InvalidGrammar] = OrderedDict()
        self._lock = threading.Lock()
        self._compiling = threading.Lock()

    def ready(self, constraint: Constraint) -> FormGuide | None:
        """A guide from the first token on, where the form was compiled; never waits. Raises InvalidGrammar."""
        with self._lock:
            compiled = self._compiled.get(constraint)
            if compiled is None:
                return None
            self._compiled.move_to_end(constraint)
            if isinstance(compiled, InvalidGrammar):
                raise InvalidGrammar(compiled.message)
            return FormGuide(compiled.deep_copy(), self._vocab_size)

    def guide(self, constraint: Constraint) -> FormGuide:
        """Likewise, compiled where it was not. Raises InvalidGrammar, UnsupportedModel."""
        with self._compiling:  # llguidance compiles without the GIL; two of a kind would be compiled twice
            guide = self.ready(constraint)
            if guide is not None:
                return guide
            tokens = self._prepared()
            try:
                self._trials.check(constraint)
                self._keep(constraint, _compile(tokens, constraint))
            except InvalidGrammar as error:  # may have taken as long
                self._keep(constraint, error)
                raise
        return self.guide(constraint)

    def _keep(self, constraint: Constraint, compiled: LLMatcher | InvalidGrammar) -> None:
        with self._lock:
            self._compiled[constraint] = compiled
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)

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
        error = complaint(self._matcher)
        return "no token goes on with the text" if error == _STUCK else error

    def allowed(self) -> bytes:
        """See Guide. Everything where it failed: what is drawn then is of no use, but somebody draws it."""
        bits = b"" if self._matcher.is_error() else self._matcher.compute_bitmask()
        return self._everything if self._matcher.is_error() else bits

    def take(self, token: int) -> None:
        """See Guide."""
        self._matcher.consume_token(token)


def _compile(tokens: LLTokenizer, constraint: Constraint) -> LLMatcher:
    made = matcher(tokens, constraint)
    first = FormGuide(made.deep_copy(), tokens.vocab_size)
    # The first mask shows a form that nothing is of, and builds what all later ones need.
    first.allowed()
    if first.failed:
        raise InvalidGrammar(f"{constraint.form}: {first.failed}")
    return made
