"""Every kind of adapter in every way that it can be used, on a real pair, against PEFT in float32.

Each cell is the largest difference of a log-probability over greedy answers, of the 20 likeliest tokens each; the
table of them is printed behind the tests. What a kind does not allow is refused, and the cell says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from lorry.errors import InvalidSelection, UnsupportedCombination
from tests.parity.bench import KINDS, Bench, Kind, running_bench
from tests.support.matrix import Cells
from tests.support.peft_adapters import QUIET

pytestmark = [pytest.mark.asyncio(loop_scope="module"), QUIET, pytest.mark.filterwarnings("ignore::UserWarning")]
TOLERANCE = 1e-4
_FAMILIES = tuple(dict.fromkeys(kind.family for kind in KINDS))
_CASES = pytest.mark.parametrize(
    ("bench", "kind"), [(kind.family, kind) for kind in KINDS], ids=str, indirect=["bench"], scope="module"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    async with running_bench(request.param, tmp_path_factory.mktemp(request.param)) as bench:
        yield bench


def near(cells: Cells, kind: Kind, column: str, found: float, how: str = "") -> None:
    cells.tell(kind.name, column, found, how)
    assert found < TOLERANCE


@_CASES
async def test_alone(bench: Bench, kind: Kind, cells: Cells) -> None:
    given, shows = await bench.alone(kind)
    assert shows > 0.05  # the adapter shows at all
    near(cells, kind, "alone", given)


@_CASES
async def test_in_one_step_with_all_the_others_and_the_base(bench: Bench, kind: Kind, cells: Cells) -> None:
    near(cells, kind, "mixed batch", await bench.mixed(kind))


@_CASES
async def test_weighted_beside_another(bench: Bench, kind: Kind, cells: Cells) -> None:
    if not kind.exclusive:
        near(cells, kind, "weighted pair", await bench.weighted(kind))
        return
    with pytest.raises(InvalidSelection, match=kind.exclusive) as refused:
        await bench.weighted(kind)
    cells.tell(kind.name, "weighted pair", f"refused: {kind.exclusive}")
    assert "no other adapter beside it" in refused.value.message


@_CASES
async def test_evicted_and_installed_again(bench: Bench, kind: Kind, cells: Cells) -> None:
    near(cells, kind, "after reload", await bench.reloaded(kind))


async def near_or_refused(cells: Cells, kind: Kind, column: str, combined: Callable[[Kind], Awaitable[float]]) -> None:
    if not kind.uncombined:
        near(cells, kind, column, await combined(kind), kind.how)
        return
    with pytest.raises(UnsupportedCombination, match=kind.uncombined):
        await combined(kind)
    cells.tell(kind.name, column, "refused")


@_CASES
async def test_combined_with_another(bench: Bench, kind: Kind, cells: Cells) -> None:
    await near_or_refused(cells, kind, "combined", bench.combined)


@_CASES
async def test_combined_published_pulled_and_loaded_by_peft(bench: Bench, kind: Kind, cells: Cells) -> None:
    await near_or_refused(cells, kind, "published", bench.published)
