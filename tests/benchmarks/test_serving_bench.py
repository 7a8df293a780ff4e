"""What the benchmarks make of their measurements. Nothing here is heavy: no model, no server."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import report, serving
from benchmarks.adapters import LINEARS, Adapters
from benchmarks.cases import cases
from benchmarks.measuring import Claim, Quiet, Result, machine
from benchmarks.transfer import over_tcp
from benchmarks.world import Scale
from lorry.format.bundle import check_bundle

RATE = Claim("B", "1 request, 1 adapter", "tok/s", "PEFT", higher=True)
TIME = Claim("H", "cold adapter", "ms", "PEFT", higher=False)
SHAPES = {f"model.layers.0.x.{name}": (8, 4) for name in LINEARS} | {"lm_head": (8, 32)}


def test_the_ratio_compares_medians() -> None:
    assert Result(RATE, ours=[90, 100, 500], peer=[20, 50, 60], cpu_share=0).ratio == 2


def test_a_ratio_above_one_means_that_we_are_better_also_where_smaller_is_better() -> None:
    assert Result(TIME, ours=[10], peer=[40], cpu_share=0).ratio == 4


def test_a_machine_that_nobody_watched_was_quiet() -> None:
    assert Quiet().share == 0


def test_our_own_work_is_not_counted_as_others() -> None:
    quiet = Quiet()
    with quiet.watched():
        sum(range(1_000_000))
    assert quiet.total > 0
    assert 0 <= quiet.share <= 1


def test_the_table_has_one_aligned_line_a_result_and_marks_noise() -> None:
    quiet = Result(RATE, ours=[73.04], peer=[15.5], cpu_share=0.03)
    noisy = Result(TIME, ours=[110], peer=[2600], cpu_share=0.5)
    assert report.table([quiet, noisy]).splitlines() == [
        "case                            ours               peer  ratio  repeats  others' CPU",
        "B     1 request, 1 adapter  73 tok/s  15.5 tok/s (PEFT)  4.71x        1           3%",
        "H     cold adapter            110 ms    2,600 ms (PEFT)  23.6x        1    50% noisy",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.07634, "0.0763"), (1.0, "1"), (85.24, "85.2"), (99.97, "100"), (1110.4, "1,110")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.shown(value) == text


def test_the_document_says_what_was_measured_how_and_where(tmp_path: Path) -> None:
    result = Result(RATE, ours=[70, 73, 80], peer=[15, 14, 16], cpu_share=0.04)
    file = report.write(tmp_path / "results", report.document(result, Scale().settings("float32"), machine()))
    assert file.name == "B.json"
    read = json.loads(file.read_text())
    assert read.pop("machine").keys() == {"cpu", "cores", "usable_cores", "memory_bytes", "system", "python"}
    assert read.pop("settings") == {
        "requests": 32,
        "new_tokens": 64,
        "residents": 8,
        "loads": 16,
        "transfer_bytes": 64_000_000,
        "prompt_tokens": 64,
        "rank": 16,
        "threads": 2,
        "dtype": "float32",
    }
    assert read == {
        "case": "B",
        "title": "1 request, 1 adapter",
        "unit": "tok/s",
        "higher_is_better": True,
        "ours": 73,
        "peer": 15,
        "peer_name": "PEFT",
        "ratio": 73 / 15,
        "repeats": 3,
        "runs": {"ours": [70, 73, 80], "peer": [15, 14, 16]},
        "cpu_share": 0.04,
    }


def test_cases_are_chosen_by_name_in_the_order_given() -> None:
    assert serving.parser().parse_args(["--cases", "E,B"]).cases == ["E", "B"]
    assert serving.parser().parse_args(["--cases="]).cases == []


@pytest.mark.parametrize("arguments", [["--cases", "B,Z"], ["--repeats", "0"]])
def test_what_cannot_be_run_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serving.parser().parse_args(arguments)
    assert "expected" in capsys.readouterr().err


def test_a_wrong_case_is_answered_with_the_right_ones() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected some of A,B,C,D,E,H,switch,F,load,push,pull, got Z"):
        serving.names("Z")


def test_every_case_is_filed_under_its_own_name() -> None:
    assert [case.claim.name for case in cases().values()] == list(cases())


def test_a_random_adapter_is_a_valid_bundle_over_the_seven_linears(tmp_path: Path) -> None:
    folder = Adapters(tmp_path, SHAPES).folder(seed=1, rank=2)
    assert {file.name for file in check_bundle(folder).files} == {"adapter_config.json", "adapter_model.safetensors"}


def test_equal_seeds_give_equal_adapters_and_others_do_not(tmp_path: Path) -> None:
    def weights(root: str, seed: int) -> bytes:
        return (Adapters(tmp_path / root, SHAPES).folder(seed) / "adapter_model.safetensors").read_bytes()

    assert weights("a", 1) == weights("b", 1) != weights("a", 2)


def test_a_rank_is_found_for_a_size(tmp_path: Path) -> None:
    # Seven modules of 8 + 4 numbers a row, two bytes each.
    assert Adapters(tmp_path, SHAPES).rank_of_bytes(7 * 12 * 2 * 5) == 5


def test_a_base_without_such_linears_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a base with linears named q_proj"):
        Adapters(tmp_path, {"transformer.h.0.c_attn": (8, 24)})


def test_all_bytes_cross_the_connection_that_pushes_are_compared_with() -> None:
    assert over_tcp(bytes(3_000_000)) > 0
