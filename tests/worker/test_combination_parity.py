"""Every method against PEFT's own formula, through publish and pull: the largest difference of each, as a table.

The first three columns compare the deltas of the pulled adapter with PEFT's; the last its logits in PEFT
with those of the base to which PEFT's delta was added. A factorwise method of unequal ranks has no
meaning: both refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from lorry.errors import InvalidCombination
from tests.merge.support import RECIPES, adapter, deltas, llama_modules, peft_combine, peft_formula
from tests.support.adapters import WEIGHTS
from tests.support.models import tiny_model
from tests.support.pair import Pair
from tests.support.peft_adapters import QUIET
from tests.support.worker import MODEL_NAME

pytestmark = QUIET
TOLERANCE = 1e-4  # float32 on both sides
TOKENS = torch.tensor([[5, 17, 3, 99, 42]])
SCENARIOS = {
    "alone": {"first": 0.8},
    "mixed ranks": {"first": 0.8, "wide": 0.6},
    "negative": {"first": 0.8, "second": -0.4},
}
# Folder and digest by name: of the digest depends what DARE draws.
Sources = Mapping[str, tuple[Path, str]]
COLUMNS = [*SCENARIOS, "reloaded"]


async def test_every_method_is_peft_s_formula_also_after_a_pull(pair: Pair) -> None:
    folders = {
        "first": adapter(pair.folder, 1, alpha=8),
        "second": adapter(pair.folder, 2, alpha=2),
        "wide": adapter(pair.folder, 3, llama_modules(8)),
    }
    versions = {name: await pair.registry.push(folder, name, base=MODEL_NAME) for name, folder in folders.items()}
    sources = {name: (folder, versions[name].digest) for name, folder in folders.items()}
    table = {}
    for method, told in RECIPES.items():
        # Of a clamped svd the delta depends on the signs of the vectors, which are LAPACK's whim in PEFT.
        parameters = {key: value for key, value in told.items() if key != "clamp_quantile"}
        table[method] = [await difference(pair, sources, method, parameters, name) for name in SCENARIOS]
        table[method].append(reloaded(pair.folder / f"{method}-negative", sources, method, parameters))
    show(table)
    cells = [cell for row in table.values() for cell in row if cell is not None]
    assert max(cells) < TOLERANCE
    assert [name for name, row in table.items() if None in row] == [
        "linear", "magnitude_prune", "ties", "dare_linear", "dare_ties"
    ]  # fmt: skip


async def difference(
    pair: Pair, sources: Sources, method: str, parameters: dict[str, Any], scenario: str
) -> float | None:
    """The largest difference of a delta's entry; None where both sides refuse."""
    weights, name = SCENARIOS[scenario], f"{method}-{scenario.replace(' ', '-')}"
    chosen = dict(sources[source] for source in weights)
    try:
        await pair.worker.combine(weights, method, publish=name, **parameters)
    except InvalidCombination:
        with pytest.raises(ValueError, match="same r value"):
            peft_combine(list(chosen), list(weights.values()), method, density=0.5)
        return None
    await pair.registry.pull(name, pair.folder / name)
    ours = deltas(load_file(pair.folder / name / WEIGHTS))
    theirs = expected(chosen, list(weights.values()), method, parameters)
    assert ours.keys() == theirs.keys()
    return max(float((delta - theirs[module]).abs().max()) for module, delta in ours.items())


def expected(
    sources: dict[Path, str], weights: list[float], method: str, parameters: dict[str, Any]
) -> dict[str, Tensor]:
    if method not in ("cat", "sum"):
        return deltas(peft_formula(sources, weights, method, parameters))
    # PEFT's `cat` of a single source is its `linear`, which is the same delta there.
    return deltas(peft_combine(list(sources), weights, "cat"))


def reloaded(pulled: Path, sources: Sources, method: str, parameters: dict[str, Any]) -> float:
    """The largest difference of a logit."""
    dense, weights = tiny_model("llama"), SCENARIOS["negative"]
    theirs = expected(dict(sources[name] for name in weights), list(weights.values()), method, parameters)
    for module, delta in theirs.items():
        dense.get_submodule(module.removeprefix("base_model.model.")).weight += delta.float()
    loaded = PeftModel.from_pretrained(tiny_model("llama"), pulled).eval()
    with torch.inference_mode():
        return float((loaded(TOKENS).logits - dense(TOKENS).logits).abs().max())


def show(table: Mapping[str, list[float | None]]) -> None:
    print(f"\n{'method':20}" + "".join(f"{column:>14}" for column in COLUMNS))  # noqa: T201 - shown by -rP
    for method, row in table.items():
        cells = "".join(f"{'refused' if cell is None else f'{cell:.1e}':>14}" for cell in row)
        print(f"{method:20}{cells}")  # noqa: T201 - likewise
