"""The filter language of ListAdapters."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_registry.domain.filters import VERSION_FIELDS, Term, interval, parse_filter
from lorry.errors import InvalidFilter

FIELDS = "name, variant, base, fits, module, parent, alias, rank, size, created or labels.KEY"


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
        ("nam=cat", 1, FIELDS),
        ("name=a AND author=me", 12, FIELDS),
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
        ("fits<tiny", 5, "one of = != behind fits"),
        ("parent=pirate", 8, "sha256: and 64 hex digits for parent"),
        ("created=yesterday", 9, "a date (2026-01-31) or a time (2026-01-31T12:00:00Z) for created"),
        ("created=2026-02-30", 9, "a date"),
        ("created=20260131", 9, "a date"),
        ("created=2026-W05-6", 9, "a date"),
        ("created=2026-01-31T12:00:00", 9, "a date"),
        ("created=2026-01-31T25:00:00Z", 9, "a date"),
        ("created=٢٠٢٦-01-31", 9, "a date"),
        ("created=9999-12-31", 9, "a date"),
        ("created<0001-01-01T00:00:00+01:00", 9, "a date"),
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


def test_versions_have_no_name_and_no_labels_of_their_own() -> None:
    assert parse_filter("module=q_proj AND alias!=prod", VERSION_FIELDS)
    for text in ("name=cat", "labels.a=b"):
        with pytest.raises(InvalidFilter, match="variant, base, fits, module, parent, alias, rank, size or created"):
            parse_filter(text, VERSION_FIELDS)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026-01-31", (2026, 1, 31), (2026, 2, 1)),
        ("2026-01-31T12:30:01Z", (2026, 1, 31, 12, 30, 1), (2026, 1, 31, 12, 30, 1, 1)),
        ("2026-01-31T12:30:01.25+02:00", (2026, 1, 31, 10, 30, 1, 250_000), (2026, 1, 31, 10, 30, 1, 250_001)),
        ("2026-01-31T12:30:01.123456789-00:30", (2026, 1, 31, 13, 0, 1, 123_456), (2026, 1, 31, 13, 0, 1, 123_457)),
    ],
)
def test_a_date_is_its_day_and_a_time_its_microsecond(text: str, start: tuple[int, ...], end: tuple[int, ...]) -> None:
    assert parse_filter(f"created>{text}") == (Term("created", ">", text),)
    assert interval(text) == (datetime(*start, tzinfo=UTC), datetime(*end, tzinfo=UTC))


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


@given(st.text(st.sampled_from('namerksizlbtdfou.=!<>*"\\ AND0123456789-:TZ\0é'), max_size=60) | st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        terms = parse_filter(text)
    except InvalidFilter:
        return
    assert all(isinstance(term, Term) for term in terms)
