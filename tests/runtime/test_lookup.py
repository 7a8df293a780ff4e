"""What a text's own past says of its next tokens."""

from __future__ import annotations

from compute_worker.runtime.lookup import REACH, PromptLookup

FAR = 99


def test_what_followed_the_last_tokens_before_is_drafted() -> None:
    assert PromptLookup().draft([1, 2, 3, 4, 5, 1, 2, 3], FAR) == [4, 5]


def test_three_tokens_that_stood_before_say_more_than_two() -> None:
    assert PromptLookup().draft([1, 2, 3, 4, 8, 2, 3, 5, 1, 2, 3], FAR) == [4, 8]


def test_of_several_places_the_last_one_counts() -> None:
    assert PromptLookup().draft([1, 2, 5, 6, 1, 2, 7, 8, 1, 2], FAR) == [7, 8]


def test_an_end_that_never_stood_before_drafts_nothing() -> None:
    assert PromptLookup().draft([1, 2, 3, 4, 1, 3], FAR) == []
    assert PromptLookup().draft([1], FAR) == []


def test_a_draft_is_no_longer_than_what_is_asked_for() -> None:
    assert PromptLookup().draft([1, 2, 3, 4, 1, 2], 1) == [3]


def test_what_repeats_is_repeated_beyond_the_end_of_the_text() -> None:
    lookup, text = PromptLookup(), [4, 6, 4, 6]
    text += [*lookup.draft(text, FAR), 4]
    assert lookup.draft(text, FAR) == [6, 4, 6, 4]


def test_drafts_that_were_right_grow_and_others_shrink_to_one() -> None:
    lookup, text, lengths = PromptLookup(), [1, 2] * 9, []
    for right in (True, True, False, False, False, False, False, False, False):
        draft = lookup.draft(text, FAR)
        lengths.append(len(draft))
        text += draft if right else [50 + len(text), 1, 2, 1, 2]
    assert lengths == [2, 4, 6, 5, 4, 3, 2, 1, 1]


def test_a_text_that_grew_between_two_drafts_is_known_whole() -> None:
    lookup = PromptLookup()
    assert lookup.draft([1, 2, 3], FAR) == []
    assert lookup.draft([1, 2, 3, 4, 5, 2, 3], FAR) == [4, 5]


def test_of_a_long_text_the_last_part_is_looked_through() -> None:
    text = [1, 2, 3, *range(10, 10 + REACH), 1, 2]
    assert PromptLookup().draft(text, FAR) == []
    assert PromptLookup().draft([*text, 3, 4, 1, 2], FAR) == [3, 4]
