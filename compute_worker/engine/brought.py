"""A tokenizer that came with an adapter: a stranger's files into transformers' tokenizer.

Owns what of them is read: tokenizer.json, and from its configuration the special tokens and the chat
template alone. No class is looked up by name and no code is loaded. A stranger chooses tokens, and neither
how texts are cut nor rewritten: patterns can hang, and replacements grow without end. Does not know where
files come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lorry.errors import InvalidAdapter, LorryError, UnsupportedAdapter
from lorry.format.strict_json import Limits, parse_object

# As large as the runtime fetches it; gemma-3 lists 6,400 added tokens of 6 fields each.
_CONFIG_LIMITS = Limits(size=4 << 20, depth=8, values=1 << 18)
# Ten times the longest that a published model has.
_MAX_TEMPLATE = 1 << 17
_NAME = "tokenizer.json"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The parts of tokenizer.json that cut and rewrite texts.
_PARTS = ("normalizer", "pre_tokenizer", "decoder")
# The longest of published vocabularies are runs of some 500 spaces; an answer of a few tokens stays one of a few KB.
_MAX_TOKEN = 1024
# What a text gets at both ends, as JSON; the longest that was seen, several special tokens, has 1 KB.
_MAX_ENDS = 4096
# Whatever it is cut into, what goes to its ends is looked up.
_SAMPLE = "a"


def brought_tokenizer(
    files: Mapping[str, Path], base: PreTrainedTokenizerBase, original: Path | None
) -> PreTrainedTokenizerFast:
    """The tokenizer of tokenizer.json, with its special tokens; where no configuration names them, those of
    the base that it has, too.

    original: the base's own tokenizer.json, which transformers may have rebuilt when it loaded `base`.
    Raises InvalidAdapter, UnsupportedAdapter, OSError.
    """
    fields = _fields(files[_NAME])
    _check_ways(fields, base, original)
    inner = _made(fields | {"truncation": None, "padding": None})
    with panics(InvalidAdapter, _NAME):
        inner.encode(_SAMPLE)
    longest = max(map(len, inner.get_vocab()), default=0)
    if longest > _MAX_TOKEN:
        raise UnsupportedAdapter(f"{_NAME}: expected tokens of at most {_MAX_TOKEN} characters, got one of {longest}")
    special = _special(files, inner, base)
    with panics(InvalidAdapter, _NAME):
        return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def _check_ways(fields: Mapping[str, object], base: PreTrainedTokenizerBase, original: Path | None) -> None:
    """Raise UnsupportedAdapter where it does not cut and rewrite texts as the base's tokenizer does."""
    own = _ways(fields)
    if own != _ways_of(base) and (original is None or own != _ways(_fields(original))):
        raise UnsupportedAdapter(
            f"{_NAME}: expected {', '.join(_PARTS)} and kind of model of the base's own tokenizer, got others: what an "
            "adapter brings may have other tokens, and no other way to cut and rewrite texts"
        )
    model = fields.get("model")
    if isinstance(model, dict) and model.get("dropout"):
        raise UnsupportedAdapter(f"{_NAME}: expected no dropout, which cuts a text another way each time")
    if len(json.dumps(fields.get("post_processor"))) > _MAX_ENDS:
        raise UnsupportedAdapter(f"{_NAME}: expected a post_processor of at most {_MAX_ENDS} bytes")
    for template in _templates(fields.get("post_processor")):
        texts = [piece for piece in template if isinstance(piece, dict) and "Sequence" in piece]
        if len(texts) != 1:
            raise UnsupportedAdapter(f"{_NAME}: expected a post_processor with the text once, got {len(texts)} times")


def _templates(processor: object) -> Iterator[list[object]]:
    """What a text is put into by a post-processor, and by those within it."""
    fields = processor if isinstance(processor, dict) else {}
    if isinstance(fields.get("single"), list):
        yield fields["single"]
    for inner in fields.get("processors") or ():
        yield from _templates(inner)


def _ways(fields: Mapping[str, object]) -> dict[str, object]:
    """The parts as the library spells them today, and the kind of model. Nothing is run with them."""
    model = fields.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    spelled = _made(
        {part: fields.get(part) for part in _PARTS} | {"version": "1.0", "added_tokens": [], "model": empty}
    )
    parts: dict[str, object] = json.loads(spelled.to_str())
    return {part: parts[part] for part in _PARTS} | {"model": kind}


def _ways_of(base: PreTrainedTokenizerBase) -> dict[str, object]:
    """Likewise, of a tokenizer that is loaded; of one that runs as Python nothing."""
    inner = getattr(base, "backend_tokenizer", None)
    if inner is None:
        return {}
    parts = {part: getattr(inner, part) for part in _PARTS}
    spelled = {part: None if way is None else json.loads(way.__getstate__()) for part, way in parts.items()}
    return spelled | {"model": type(inner.model).__name__}


def _made(fields: Mapping[str, object]) -> tokenizers.Tokenizer:
    with panics(InvalidAdapter, _NAME):
        return tokenizers.Tokenizer.from_str(json.dumps(fields))


@contextmanager
def panics(kind: type[LorryError], what: str) -> Iterator[None]:
    """Raise `kind` where the library raises, or panics, which to Python is no Exception at all."""
    try:
        yield
    except BaseException as error:  # the library raises nothing narrower
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise kind(f"{what}: {str(error)[:200]}") from error
        raise


def brought_template(files: Mapping[str, Path]) -> str | None:
    """The chat template, None where they have none. Raises InvalidAdapter, UnsupportedAdapter, OSError."""
    if "chat_template.jinja" in files:
        with files["chat_template.jinja"].open("rb") as file:
            return _bounded(_text(file.read(_MAX_TEMPLATE * 4 + 1)))
    for name in ("tokenizer_config.json", "chat_template.json"):
        if name in files:
            template = _config(files[name]).get("chat_template")
            if isinstance(template, list):  # several by name, as transformers 4 wrote them
                named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
                template = named[0].get("template") if named else None
            if template is not None:
                return _bounded(template)
    return None


def _bounded(template: object) -> str:
    if not isinstance(template, str):
        raise InvalidAdapter(f"chat_template: expected a text, got {type(template).__name__}")
    if len(template) > _MAX_TEMPLATE:
        raise UnsupportedAdapter(f"chat_template: expected at most {_MAX_TEMPLATE} characters, got {len(template)}")
    return template


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidAdapter(f"chat_template.jinja: expected UTF-8: {error}") from error


def _fields(path: Path) -> dict[str, object]:
    # What Rust reads is what was looked at here: the text is written anew, so that no key comes twice.
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"{_NAME}: expected JSON: {str(error)[:200]}") from error
    if not isinstance(fields, dict):
        raise InvalidAdapter(f"{_NAME}: expected an object, got {type(fields).__name__}")
    return fields


def _config(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        fields = parse_object(file.read(_CONFIG_LIMITS.size + 1), path.name, _CONFIG_LIMITS)
    if fields.get("auto_map"):
        raise UnsupportedAdapter("tokenizer_config.json: auto_map names code, which is never run")
    return fields


def _special(files: Mapping[str, Path], inner: tokenizers.Tokenizer, base: PreTrainedTokenizerBase) -> dict[str, str]:
    """The special tokens by their attribute, all of them of the vocabulary."""
    if "tokenizer_config.json" not in files:
        own = {name: getattr(base, name) for name in _SPECIAL}
        return {name: token for name, token in own.items() if token and inner.token_to_id(token) is not None}
    config = _config(files["tokenizer_config.json"])
    named = {name: _content(name, config[name]) for name in _SPECIAL if config.get(name) is not None}
    for name, token in named.items():
        if inner.token_to_id(token) is None:
            raise InvalidAdapter(f"tokenizer_config.json: {name} is {token[:80]!r}, which tokenizer.json does not have")
    return named


def _content(name: str, token: object) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise InvalidAdapter(f"tokenizer_config.json: {name}: expected a token, got {str(token)[:80]}")
    return content
