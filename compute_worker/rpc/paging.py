"""Pages of short lists that live in memory.

Owns the token of a page: the key of its last entry. Does not know what is listed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from lorry.errors import InvalidInput, InvalidPageToken

T = TypeVar("T")

DEFAULT_SIZE = 100
MAX_SIZE = 1000


def page(items: Sequence[T], key: Callable[[T], str], size: int, token: str) -> tuple[Sequence[T], str]:
    """The entries behind the one that `token` names, at most `size`, and the next page's token.

    Raises InvalidInput, InvalidPageToken (also where the entry that it names is gone).
    """
    if size < 0:
        raise InvalidInput(f"page_size: expected 0 or more, got {size}")
    start = _start(items, key, token)
    end = start + min(size or DEFAULT_SIZE, MAX_SIZE)
    more = end < len(items)
    return items[start:end], _encode(key(items[end - 1])) if more else ""


def _start(items: Sequence[T], key: Callable[[T], str], token: str) -> int:
    if not token:
        return 0
    last = _decode(token)
    for index, item in enumerate(items):
        if key(item) == last:
            return index + 1
    raise InvalidPageToken("the entry that the page token names is gone; begin again")


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _decode(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidPageToken("expected a page token that this call gave out") from error
