"""Recipes as documents, and what is no recipe."""

from __future__ import annotations

import pytest

from lorry.errors import InvalidCombination
from lorry.recipe import WrittenRecipe, read

A = "pirate@sha256:" + "a" * 64


def test_a_document_says_method_parameters_and_sources() -> None:
    recipe = read({"method": "ties", "parameters": {"density": 0.5}, "sources": [{"adapter": A, "weight": -2}]})
    assert recipe == WrittenRecipe("ties", {"density": 0.5}, [(A, -2.0)])
    assert read(recipe.document()) == recipe


def test_what_is_left_out_has_its_usual_meaning() -> None:
    assert read({"method": "cat", "sources": [{"adapter": A}]}) == WrittenRecipe("cat", {}, [(A, 1.0)])


def test_a_bare_exponent_that_yaml_takes_for_a_text_is_a_number() -> None:
    assert read({"method": "cat", "sources": [{"adapter": A, "weight": "1e-3"}]}).sources == [(A, 0.001)]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (None, "a recipe with method, parameters, sources, got NoneType"),
        ({"methods": "cat"}, "got \\['methods'\\]"),
        ({"method": "cat"}, "sources to be a list"),
        ({"method": "cat", "sources": {A: 1}}, "sources to be a list"),
        ({"method": "cat", "sources": [A]}, "a source with adapter, weight, got str"),
        ({"method": "cat", "sources": [{"weight": 1}]}, "a source's adapter"),
        ({"method": "cat", "sources": [{"adapter": A, "weight": "much"}]}, "a number as weight"),
        ({"method": "cat", "parameters": [1], "sources": []}, "parameters of clamp_quantile, density"),
        ({"method": "cat", "parameters": {"publish": "x"}, "sources": []}, "got {'publish': 'x'}"),
    ],
)
def test_what_is_no_recipe_is_refused(document: object, says: str) -> None:
    with pytest.raises(InvalidCombination, match=says):
        read(document)
