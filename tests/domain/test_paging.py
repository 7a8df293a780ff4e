"""Page sizes and page tokens."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_registry.domain.paging import Cursor, Key, page_size
from adapter_registry.domain.records import Page
from lorry.errors import InvalidInput, InvalidPageToken

CURSOR = Cursor("versions", "default/cat", (str, int))


def token(*key: str | int, cursor: Cursor = CURSOR) -> str:
    """The token of a full page that ends with this key."""
    return cursor.listing([key, ("next", 1)], Page(1), tuple, [key]).next_token


def raw(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("asked", "given"), [(0, 100), (1, 1), (100, 100), (1_000, 1_000), (1_001, 1_000), (2**31, 1_000)]
)
def test_page_sizes(asked: int, given: int) -> None:
    assert page_size(asked) == given


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected 0 to 1000, got -1"):
        page_size(-1)


def test_a_first_page_begins_at_the_beginning() -> None:
    assert CURSOR.position(Page()) is None


def test_a_page_that_is_not_the_last_tells_where_the_next_begins() -> None:
    rows: list[Key] = [("a", 1), ("b", 2), ("c", 3)]
    listing = CURSOR.listing(rows, Page(2), tuple, ["A", "B"])
    assert listing.items == ("A", "B")
    assert CURSOR.position(Page(2, listing.next_token)) == ("b", 2)


def test_the_last_page_has_no_token() -> None:
    assert CURSOR.listing([("a", 1), ("b", 2)], Page(2), tuple, ["A", "B"]).next_token == ""
    assert CURSOR.listing([], Page(2), tuple, []).next_token == ""


@given(st.text(st.characters(exclude_characters="\0", codec="ascii"), max_size=100), st.integers(0, 2**63 - 1))
def test_any_key_comes_back(text: str, number: int) -> None:
    assert CURSOR.position(Page(1, token(text, number))) == (text, number)


@pytest.mark.parametrize(
    "other",
    [
        Cursor("aliases", "default/cat", (str, int)),
        Cursor("versions", "default/dog", (str, int)),
        Cursor("versions", "default/cat", (int, str)),
        Cursor("versions", "default/cat", (str,)),
    ],
)
def test_a_token_of_another_list_is_refused(other: Cursor) -> None:
    with pytest.raises(InvalidPageToken):
        other.position(Page(1, token("a", 1)))


TAG = json.loads(base64.urlsafe_b64decode(token("a", 1) + "==="))[0]


@pytest.mark.parametrize(
    "text",
    ["x", "é", "=", "AAAA", "*", " ", "A" * 2_000, raw({}), raw([]), raw(None), raw([TAG]), raw("x"), raw([[[]]])]
    + [raw([TAG, *key]) for key in (["a"], ["a", "1"], ["a", 1.5], ["a", True], ["a", None], ["a", 1, 1])]
    + [raw([TAG, *key]) for key in (["a\0", 1], ["\ud800", 1], ["a", -1], ["a", 2**63], [1, 1])],
)
def test_a_garbled_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidPageToken):
        CURSOR.position(Page(1, text))


@given(st.text(max_size=50))
def test_any_text_is_refused_or_empty(text: str) -> None:
    if not text:
        return
    with pytest.raises(InvalidPageToken):
        CURSOR.position(Page(1, text))
