"""A stranger's form, compiled for the first time where it can do no harm.

Owns how a form is written down for llguidance and how far one may go; both are the same where it is compiled to be
used. What a form costs to be compiled depends on the form, so a vocabulary of single bytes tells. Does not know the
model's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from compute_worker.engine.confined import MEMORY, SECONDS, Confined, serve
from compute_worker.wording import Constraint, Form
from lorry.errors import InvalidGrammar

# Schemas leave white space between the parts of a document to the writer, and a model that was not asked for
# JSON writes nothing else. As much as most JSON has; a schema may say more in its "x-guidance".
_WHITE_SPACE = " ?"
# Ways to read a text that are followed at once, and looked at for one mask. Schemas and programming languages
# have some ten; an ambiguous grammar (`x: "a" | x x`) gets one more with each token, and everybody's step waits.
# States of a form take some 400 bytes each and stay with it: a fifth of what the library allows, 20 MB.
LIMITS = LLParserLimits(max_items_in_row=500, step_max_items=5_000, max_lexer_states=50_000)


class Trials:
    """Any thread. seconds: of a processor, for a form."""

    def __init__(self, seconds: int = SECONDS) -> None:
        self._process = Confined("compute_worker.engine.trial", seconds)
        self._seconds = seconds

    def check(self, constraint: Constraint) -> None:
        """Raise InvalidGrammar for what is no form, and for one that takes too much to be compiled."""
        answer = self._process.ask({"form": constraint.form, "text": constraint.text})
        if answer is None:
            raise InvalidGrammar(
                f"{constraint.form}: was given up, it may take {self._seconds} seconds and {MEMORY >> 20} MB to compile"
            )
        if "error" in answer:
            raise InvalidGrammar(answer["error"])


def matcher(tokens: LLTokenizer, constraint: Constraint) -> LLMatcher:
    """A form for these tokens. Raises InvalidGrammar; what else is wrong with it the matcher says itself."""
    # log_level 0: what a matcher has to say is in its error.
    return LLMatcher(tokens, _grammar(constraint), log_level=0, limits=LIMITS)


def complaint(made: LLMatcher) -> str:
    """What is wrong with a form; empty where nothing is."""
    return made.get_error().partition("\n<state>")[0]


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


def _tried(order: Mapping[str, str]) -> dict[str, str]:
    constraint = Constraint(Form(order["form"]), order["text"])
    try:
        made = matcher(_BYTES, constraint)
    except InvalidGrammar as error:
        return {"error": error.message}
    wrong = complaint(made)
    return {"error": f"{constraint.form}: {wrong}"} if wrong else {}


if __name__ == "__main__":
    _BYTES = LLTokenizer("byte")
    serve(_tried)
