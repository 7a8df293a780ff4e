"""The filter language of ListAdapters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_registry.domain.filters import Term, parse_filter
from lorry.errors import InvalidFilter


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_an_empty_text_has_no_terms(text: str) -> None:
    assert parse_filter(text) == ()


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("name=cat", Term("name", "=", "cat")),
        ("name=cat*", Term("name", "=", "cat*")),
        ("name != cat", Term("name", "!=", "cat")),
        ("  variant = rslora  ", Term("variant", "=", "rslora")),
        ("base=HuggingFaceTB/SmolLM2-135M", Term("base", "=", "HuggingFaceTB/SmolLM2-135M")),
        ("base!=sha256:00", Term("base", "!=", "sha256:00")),
        ("rank<8", Term("rank", "<", "8")),
        ("rank<=8", Term("rank", "<=", "8")),
        ("rank>8", Term("rank", ">", "8")),
        ("size>=10000000000", Term("size", ">=", "10000000000")),
        ("labels.team=pets", Term("labels", "=", "pets", "team")),
        ("labels.a.b/c-d=AND", Term("labels", "=", "AND", "a.b/c-d")),
        ('labels."my key"="my \\"value\\" \\\\ AND rank=8"', Term("labels", "=", 'my "value" \\ AND rank=8', "my key")),
        ('labels.empty=""', Term("labels", "=", "", "empty")),
        ("labels.star=a*b", Term("labels", "=", "a*b", "star")),
        ('labels.größe="groß"', Term("labels", "=", "groß", "größe")),
    ],
)
def test_a_term_is_a_field_an_operator_and_a_value(text: str, term: Term) -> None:
    assert parse_filter(text) == (term,)


def test_terms_are_joined_by_and() -> None:
    terms = parse_filter('name=a* AND rank>=4\n AND labels.x="1"AND size<9')
    assert [(term.field, term.value) for term in terms] == [
        ("name", "a*"),
        ("rank", "4"),
        ("labels", "1"),
        ("size", "9"),
    ]


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("nam=cat", 1, "name, variant, base, rank, size or labels.KEY"),
        ("name=a AND author=me", 12, "name, variant, base, rank, size or labels.KEY"),
        ("NAME=cat", 1, "a field"),
        ("=cat", 1, "a field"),
        ("labels=x", 1, "labels.KEY"),
        ("name.x=y", 1, "labels.KEY"),
        ("labels.=x", 8, "the key of a label"),
        ("name", 5, "one of = !="),
        ("name cat", 6, "one of = !="),
        ("name<cat", 5, "one of = != behind name"),
        ("labels.a>=b", 9, "one of = != behind labels"),
        ("name=", 6, "a value"),
        ("name==cat", 6, "a value"),
        ("name=>cat", 6, "a value"),
        ('name="cat', 6, 'a text that ends in "'),
        ('labels.a="\\n"', 10, 'a text that ends in "'),
        ("rank=many", 6, "a whole number of at most 18 digits for rank"),
        ("rank=-1", 6, "a whole number"),
        ("size<1e9", 6, "a whole number"),
        ("size<1000000000000000000", 6, "a whole number"),
        ("rank=٣", 6, "a whole number"),
        ("variant=qlora", 9, "one of lora, rslora, dora"),
        ("name=*cat", 6, "a name with * at most at its end"),
        ("name=a name=b", 8, "AND before the next term"),
        ("name=a and name=b", 8, "AND before the next term"),
        ("name=a ANDname=b", 8, "AND before the next term"),
        ("name=a AND", 11, "a field"),
        ("AND name=a", 1, "a field"),
        ('labels.a="\0"', 10, "a value without NUL"),
    ],
)
def test_what_does_not_parse_is_refused_with_its_position(text: str, position: int, expected: str) -> None:
    with pytest.raises(InvalidFilter) as refused:
        parse_filter(text)
    assert f"position {position}: expected " in refused.value.message
    assert expected in refused.value.message


def test_length_and_number_of_terms_are_bounded() -> None:
    assert len(parse_filter(" AND ".join(["rank=1"] * 32))) == 32
    with pytest.raises(InvalidFilter, match="at most 32 terms, got 33"):
        parse_filter(" AND ".join(["rank=1"] * 33))
    with pytest.raises(InvalidFilter, match="at most 2000 characters, got 2001"):
        parse_filter(" " * 2_001)


def test_a_message_does_not_repeat_a_long_filter() -> None:
    with pytest.raises(InvalidFilter) as refused:
        parse_filter("x" * 2_000)
    assert len(refused.value.message) < 200


TERMS = st.builds(
    lambda key, operator, value: Term("labels", operator, value, key),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
    st.sampled_from(["=", "!="]),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.lists(TERMS, max_size=8))
def test_any_quoted_text_is_read_as_it_was_meant(terms: list[Term]) -> None:
    text = " AND ".join(f"labels.{quoted(t.key)}{t.operator}{quoted(t.value)}" for t in terms)
    assert parse_filter(text) == tuple(terms)


@given(st.text(st.sampled_from('namerksizlb.=!<>*"\\ AND0123456789\0é'), max_size=60) | st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        terms = parse_filter(text)
    except InvalidFilter:
        return
    assert all(isinstance(term, Term) for term in terms)
