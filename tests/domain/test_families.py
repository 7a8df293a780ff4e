"""Who descends from whom, and what that means for adapters."""

from __future__ import annotations

import pytest

from adapter_registry.domain.families import Families, Kin
from lorry.errors import InvalidInput
from lorry.format.compatibility import CarryOver


def family(*declared: tuple[str, str | None, CarryOver]) -> Families:
    return Families(Kin(base, base, parent, policy, 1) for base, parent, policy in declared)


LINE = family(
    ("base", None, CarryOver.ALLOW),
    ("chat", "base", CarryOver.WARN),
    ("chat-int8", "chat", CarryOver.ALLOW),
    ("code", "base", CarryOver.REFUSE),
)


@pytest.mark.parametrize(
    ("made_for", "served", "policy"),
    [
        ("base", "chat", CarryOver.WARN),
        ("chat", "chat-int8", CarryOver.ALLOW),
        ("base", "chat-int8", CarryOver.ALLOW),
        ("base", "code", CarryOver.REFUSE),
        ("chat", "base", CarryOver.REFUSE),
        ("code", "chat", CarryOver.REFUSE),
        ("chat", "chat", CarryOver.REFUSE),
        ("stranger", "chat", CarryOver.REFUSE),
        ("base", "stranger", CarryOver.REFUSE),
    ],
)
def test_the_served_base_decides_about_adapters_of_its_ancestors_alone(
    made_for: str, served: str, policy: CarryOver
) -> None:
    assert LINE.carry_over(made_for, served) is policy


def test_descendants_are_found_in_any_number_of_steps() -> None:
    assert LINE.descendants("base") == ["chat", "chat-int8", "code"]
    assert LINE.descendants("chat-int8") == []


def test_a_parent_need_not_be_registered() -> None:
    orphan = family(("chat", "unknown", CarryOver.ALLOW))
    assert orphan.carry_over("unknown", "chat") is CarryOver.ALLOW
    assert orphan.descendants("unknown") == ["chat"]


@pytest.mark.parametrize("parent", ["base", "chat", "chat-int8"])
def test_a_base_that_would_descend_from_itself_is_refused(parent: str) -> None:
    with pytest.raises(InvalidInput, match=f"got {parent}"):
        LINE.check_parent("base", parent)
    LINE.check_parent("base", "elsewhere")
    LINE.check_parent("base", None)


def test_a_stored_circle_ends_the_walk() -> None:
    circle = family(("a", "b", CarryOver.ALLOW), ("b", "a", CarryOver.ALLOW))
    assert circle.carry_over("b", "a") is CarryOver.ALLOW
    assert circle.carry_over("stranger", "a") is CarryOver.REFUSE
