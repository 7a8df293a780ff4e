"""What the benchmarks make of their measurements. Nothing here is heavy: no model, no server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report, serving, sweeps
from benchmarks.adapters import LINEARS, Adapters
from benchmarks.cases import cases
from benchmarks.measuring import Claim, Quiet, Result, machine, own_seconds
from benchmarks.peer import KINDS, Kind, PeerFailedError, peer
from benchmarks.texts import Prompts
from benchmarks.transfer import over_tcp
from benchmarks.world import POOL_ADAPTERS, Scale, Sides, world
from lorry.format.bundle import check_bundle
from tests.support.tokenizers import saved_tokenizer
from tests.support.worker import save_model

RATE = Claim("B", "1 request, 1 adapter", "tok/s", "PEFT", higher=True, ours="float32")
TIME = Claim("H", "cold adapter", "ms", "PEFT", higher=False)
PEFT = Sides("float32", KINDS["peft"], "float32")
TINY = Scale(requests=2, new_tokens=4, long_requests=2, long_tokens=64, residents=2, loads=4, transfer_bytes=100_000)
SHAPES = {f"model.layers.0.x.{name}": (8, 4) for name in LINEARS} | {"lm_head": (8, 32)}


def test_the_ratio_compares_medians() -> None:
    assert Result(RATE, ours=[90, 100, 500], peer=[20, 50, 60], cpu_share=0).ratio == 2


def test_a_ratio_above_one_means_that_we_are_better_also_where_smaller_is_better() -> None:
    assert Result(TIME, ours=[10], peer=[40], cpu_share=0).ratio == 4


def test_a_machine_that_nobody_watched_was_quiet() -> None:
    assert Quiet().share == 0


def test_a_glance_tells_nothing_of_others_and_a_second_does() -> None:
    assert Quiet(total=0.02, others=0.02).share == 0
    assert Quiet(total=2.0, others=0.5).share == 0.25


def test_our_own_work_is_not_counted_as_others() -> None:
    quiet = Quiet()
    with quiet.watched():
        sum(range(1_000_000))
    assert quiet.total > 0
    assert 0 <= quiet.share <= 1


def test_the_time_of_a_child_that_ended_is_ours() -> None:
    before = own_seconds()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert own_seconds() - before >= 0.25  # as the kernel counts, in hundredths


def test_the_table_has_one_aligned_line_a_result_and_marks_noise() -> None:
    quiet = Result(RATE, ours=[73.04], peer=[15.5], cpu_share=0.03)
    noisy = Result(TIME, ours=[110], peer=[2600], cpu_share=0.5)
    assert report.table([quiet, noisy]).splitlines() == [
        "case                                      ours               peer  ratio  repeats  others' CPU",
        "B     1 request, 1 adapter  73 tok/s (float32)  15.5 tok/s (PEFT)  4.71x        1           3%",
        "H     cold adapter                      110 ms    2,600 ms (PEFT)  23.6x        1    50% noisy",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.07634, "0.0763"), (1.0, "1"), (85.24, "85.2"), (99.97, "100"), (1110.4, "1,110")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.shown(value) == text


def test_the_document_says_what_was_measured_how_and_where(tmp_path: Path) -> None:
    result = Result(RATE, ours=[70, 73, 80], peer=[15, 14, 16], cpu_share=0.04)
    file = report.write(tmp_path / "results", report.document(result, Scale().settings(PEFT), machine()))
    assert file.name == "B.json"
    read = json.loads(file.read_text())
    facts = {"cpu", "vectors", "cores", "usable_cores", "memory_bytes", "system", "python"}
    assert read.pop("machine").keys() == facts
    assert read.pop("settings") == {
        "requests": 32,
        "new_tokens": 64,
        "long_requests": 8,
        "long_tokens": 1024,
        "residents": 8,
        "loads": 24,
        "transfer_bytes": 64_000_000,
        "prompt_tokens": 64,
        "rank": 16,
        "threads": 2,
        "clock": "wall",
        "dtype": "float32",
        "peer_dtype": "float32",
    }
    assert read == {
        "case": "B",
        "title": "1 request, 1 adapter",
        "unit": "tok/s",
        "higher_is_better": True,
        "ours": 73,
        "peer": 15,
        "ours_name": "float32",
        "peer_name": "PEFT",
        "ratio": 73 / 15,
        "repeats": 3,
        "runs": {"ours": [70, 73, 80], "peer": [15, 14, 16]},
        "cpu_share": 0.04,
    }


def test_cases_are_chosen_by_name_in_the_order_given() -> None:
    assert serving.parser().parse_args(["--cases", "E,B"]).cases == ["E", "B"]
    assert serving.parser().parse_args(["--cases="]).cases == []


@pytest.mark.parametrize(("option", "value"), [("--peers", "nobody"), ("--repeats", "0"), ("--dtype", "int8")])
def test_what_cannot_be_run_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serving.parser().parse_args([option, value])
    assert f"argument {option}:" in capsys.readouterr().err


def chosen(*arguments: str) -> dict[str, list[str]]:
    """The folder of the results of each peer, with the cases that it is measured in."""
    options = serving.parser().parse_args(arguments)
    return {
        serving.folder(options, sides).relative_to(serving.RESULTS).as_posix(): [case.claim.name for case in of_peer]
        for sides, of_peer in serving.runs(options)
    }


def test_every_peer_is_measured_in_the_cases_that_it_takes_part_in() -> None:
    assert chosen("--peers", "vllm-bare,vllm", "--cases", "F,C") == {"vllm-bare": ["C"], "vllm": ["F", "C"]}
    assert chosen("--peers", "vllm-bare,llama", "--cases", "B") == {"llama": ["B"]}
    assert chosen("--peers", "llama") == {"llama": ["A", "B"]}


def test_a_case_that_no_peer_takes_part_in_is_answered_with_those_that_they_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        chosen("--peers", "llama", "--cases", "A,switch")
    assert "expected some of A,B, got switch" in capsys.readouterr().err


def test_by_cpu_time_only_what_computes_is_measured() -> None:
    assert chosen("--clock", "cpu") == {"peft-cpu": ["A", "B", "C", "D", "E", "I", "J", "F"]}


def test_results_of_other_conditions_than_the_usual_go_elsewhere() -> None:
    (usual,) = chosen()
    assert usual == "peft"
    assert chosen("--peers", "llama", "--quick", "--threads", "1").keys() == {"quick/llama-threads1"}
    assert chosen("--dtype", "bfloat16", "--peer-dtype", "float32").keys() == {"peft-bfloat16-float32"}


def test_every_case_is_filed_under_its_own_name() -> None:
    assert [case.claim.name for case in cases(PEFT).values()] == list(cases(PEFT))


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


def test_no_prompt_comes_twice(tmp_path: Path) -> None:
    prompts = Prompts(str(saved_tokenizer(tmp_path)))
    drawn = [*prompts.fresh(40, 64), *prompts.fresh(40, 64)]
    assert len({tuple(prompt) for prompt in drawn}) == 80
    assert {len(prompt) for prompt in drawn} == {64}


def test_prompts_go_around_the_text_and_end_with_it(tmp_path: Path) -> None:
    prompts = Prompts(str(saved_tokenizer(tmp_path)))
    (long,) = prompts.fresh(1, 100_000)
    assert len(long) == 100_000
    with pytest.raises(ValueError, match="expected at most"):
        prompts.fresh(len(set(range(100_000))), 1)


async def test_a_peer_that_is_not_there_says_what_builds_it(tmp_path: Path) -> None:
    nowhere = Kind("vllm", "vLLM", "bench-vllm", tmp_path / "python", "vllm_process")
    async with peer(nowhere, ["model", "float32", "2"], "wall", tmp_path) as asked:
        with pytest.raises(PeerFailedError, match="`make bench-vllm` builds it"):
            await asked.fresh()


async def test_a_peer_starts_when_it_is_first_asked_and_its_end_is_told_with_its_log(tmp_path: Path) -> None:
    here = Kind("nobody", "Nobody", "bench", Path(sys.executable), "no_such_process")
    async with peer(here, ["model", "float32", "1"], "wall", tmp_path) as asked:
        assert asked.rss_bytes == 0
        with pytest.raises(PeerFailedError, match="no_such_process"):
            await asked.fresh()


@pytest.mark.parametrize("name", sweeps.SWEEPS)
def test_what_a_point_holds_fits_the_pool_and_its_requests_are_as_many_as_the_others(name: str) -> None:
    for point in sweeps.SWEEPS[name]():
        assert sum(adapter.rank for adapter in point.resident) <= POOL_ADAPTERS * 16
        assert len(point.selections) == sweeps.REQUESTS


def test_a_sweep_over_many_adapters_asks_for_more_than_the_pool_holds() -> None:
    asked = {point.at: {name for one in point.selections for name in one or ()} for point in sweeps.adapters()}
    assert len(asked["1"]) == 1
    assert len(asked["256"]) > POOL_ADAPTERS


@pytest.mark.long
async def test_every_case_gives_values_of_both_sides(tmp_path: Path) -> None:
    model, into = save_model(tmp_path / "model"), tmp_path / "results"
    every = cases(PEFT)
    await serving.measure(str(model), PEFT, list(every.values()), TINY, 1, tmp_path, into)
    results = {file.stem: json.loads(file.read_text()) for file in into.iterdir()}
    assert results.keys() == every.keys()
    assert all(result["ours"] > 0 and result["peer"] > 0 for result in results.values())


@pytest.mark.long
async def test_a_sweep_measures_each_of_its_points(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    async with world(str(model), PEFT, TINY, tmp_path) as around:
        document = await sweeps.sweep(around, "kinds", repeats=1)
    measured = [(point["at"], point["rate"] > 0) for point in document["points"]]
    assert measured == [("base", True), ("LoRA", True), ("weighted pair", True), ("DoRA", True)]
