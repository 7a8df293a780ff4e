"""Pages of a list: how large, and where the next one begins.

Owns the rules for page sizes and the opaque page tokens. A token says behind which key a page
begins, so pages stay right while others write: nothing is skipped or told twice that was there all
the time. Does not know what is listed, or how.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from adapter_registry.domain.records import Listing, Page
from lorry.errors import InvalidInput, InvalidPageToken

DEFAULT_SIZE = 100
MAX_SIZE = 1_000
# The longest key is two names of 63 characters; with the rest of the JSON, in base64, well below.
_MAX_TOKEN = 1_024
_INT64 = 1 << 63  # what a database's integer can hold

Key = tuple[str | int, ...]
R = TypeVar("R")
T = TypeVar("T")


def page_size(asked: int) -> int:
    """Entries to give: 0 means 100, more than 1,000 means 1,000. Raises InvalidInput below 0."""
    if asked < 0:
        raise InvalidInput(f"page_size: expected 0 to {MAX_SIZE}, got {asked}")
    return min(asked or DEFAULT_SIZE, MAX_SIZE)


class Cursor:
    """Tokens of one list.

    kind: which list. scope: the arguments that choose what is on it; a token given out for other
    arguments is refused. shape: the types of the sort key's parts.
    """

    def __init__(self, kind: str, scope: str, shape: tuple[type[str | int], ...]) -> None:
        self._tag = f"{kind}:{hashlib.sha256(scope.encode()).hexdigest()[:16]}"
        self._shape = shape

    def position(self, page: Page) -> Key | None:
        """Key behind which the page begins, None for the first page. Raises InvalidPageToken."""
        if not page.token:
            return None
        tag, *key = self._parts(page.token)
        fits = len(key) == len(self._shape) and all(map(_fits, key, self._shape))
        if tag != self._tag or not fits:
            raise _refused()
        return tuple(key)

    def listing(self, rows: Sequence[R], page: Page, key: Callable[[R], Key], items: Sequence[T]) -> Listing[T]:
        """A page out of up to page_size + 1 rows; `items` are what the first page_size of them tell."""
        more = len(rows) > page_size(page.size)
        return Listing(tuple(items), self._token(key(rows[len(items) - 1])) if more else "")

    def _token(self, key: Key) -> str:
        data = json.dumps([self._tag, *key], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    @staticmethod
    def _parts(token: str) -> list[str | int]:
        if len(token) > _MAX_TOKEN:
            raise _refused()
        try:
            parts = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        except (binascii.Error, ValueError, RecursionError) as error:
            raise _refused() from error
        if not isinstance(parts, list) or not parts:
            raise _refused()
        return parts


def _fits(part: object, kind: type[str | int]) -> bool:
    if isinstance(part, str):
        return kind is str and part.isascii() and "\0" not in part  # as names are
    return kind is int and type(part) is int and 0 <= part < _INT64


def _refused() -> InvalidPageToken:
    return InvalidPageToken("expected next_page_token of a call with the same arguments, got another text")
