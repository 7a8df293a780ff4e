"""Families of bases and verdicts, as the command shows them."""

from __future__ import annotations

import pytest

from lorry import sync
from lorry.format.compatibility import CarryOver
from tests.cli.conftest import Lorry
from tests.support.adapters import BASE_NAME, base_for


@pytest.fixture
def variant(address: str) -> str:
    """A variant of the registered base that refuses its adapters."""
    with sync.RegistryClient(address) as client:
        client.register_base_model("variant", base_for(seed=1))
        client.update_base_model("variant", derived_from=base_for().base_id, carry_over=CarryOver.REFUSE)
    return "variant"


def test_a_family_is_changed_and_shown(lorry: Lorry, variant: str) -> None:
    changed = lorry("base", "update", variant, "--carry-over", "warn")
    assert changed.out == f"variant  of {BASE_NAME} (warn)\n"
    assert f"of {BASE_NAME} (warn)" in lorry("base", "ls").out
    assert f"of {BASE_NAME} (warn)" in lorry("base", "show", variant).out
    alone = lorry("base", "update", variant, "--derived-from", "", "--json").json
    assert (alone["derived_from"], alone["carry_over"]) == ("", "CARRY_OVER_WARN")
    named = lorry("base", "update", variant, "--derived-from", BASE_NAME, "--json").json
    assert named["derived_from"] == base_for().base_id


def test_a_change_that_changes_nothing_is_a_usage_error(lorry: Lorry, variant: str) -> None:
    assert lorry("base", "update", variant).code == 2
    assert lorry("base", "update", variant, "--carry-over", "perhaps").code == 2
    assert lorry("base", "update", variant, "--derived-from", variant).code == 2


def test_a_version_is_checked_against_every_base(lorry: Lorry, folder: str, variant: str) -> None:
    lorry("push", folder, "family/pirate")
    told = lorry("check", "family/pirate")
    assert (told.code, told.out.splitlines()[0]) == (0, f"{BASE_NAME}: compatible")
    assert "variant: not compatible\n  reason BASE_MISMATCH: " in told.out
    lorry("base", "update", variant, "--carry-over", "warn")
    verdicts = {verdict["base_model"]: verdict for verdict in lorry("check", "family/pirate", "--json").json}
    assert verdicts[variant]["compatible"] is True
    assert [finding["code"] for finding in verdicts[variant]["findings"]] == ["BASE_VARIANT"]


def test_a_folder_is_checked_against_the_base_that_it_names(lorry: Lorry, folder: str) -> None:
    assert lorry("check", folder).out == "compatible\n"


def test_a_push_is_judged_with_its_family_before_any_byte_is_sent(lorry: Lorry, folder: str, variant: str) -> None:
    refused = lorry("push", folder, "family/early", "--base", variant)
    assert (refused.code, "BASE_MISMATCH" in refused.err) == (6, True)
    lorry("base", "update", variant, "--carry-over", "warn")
    pushed = lorry("push", folder, "family/early", "--base", variant)
    assert (pushed.code, "BASE_VARIANT" in pushed.err) == (0, True)
