"""The corpus of hostile bundles: every one is refused, typed, in little memory."""

import tracemalloc
from pathlib import Path

import pytest

from lorry.errors import LorryError
from lorry.format.bundle import check_bundle
from tests.support.hostile import HOSTILE, HostileCase


@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_a_hostile_bundle_is_refused_by_its_class_of_error(case: HostileCase, tmp_path: Path) -> None:
    case.write(tmp_path)

    with pytest.raises(LorryError) as caught:
        check_bundle(tmp_path)

    assert type(caught.value) is case.error
    assert len(str(caught.value)) < 1000


def test_refusing_takes_less_than_16_mb(tmp_path: Path) -> None:
    peaks = {}
    for case in HOSTILE:
        case.write(tmp_path / case.name)
        tracemalloc.start()
        with pytest.raises(LorryError):
            check_bundle(tmp_path / case.name)
        peaks[case.name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert {name: peak for name, peak in peaks.items() if peak > 16 << 20} == {}


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in HOSTILE}) == len(HOSTILE)
