"""`lorry route` and `lorry interpolate`, against a real worker over a tiny random model."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lorry import sync
from tests.cli.conftest import Lorry
from tests.support.blocking import blocking
from tests.support.worker import MODEL_NAME, running_worker, save_model, tiny_adapter, tiny_base


@pytest.fixture(scope="module")
def worker(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker whose registry has two adapters of its base."""
    folder = tmp_path_factory.mktemp("worker")
    with sync.RegistryClient(address) as registry:
        registry.register_base_model(MODEL_NAME, tiny_base())
        for seed, name in enumerate(("pirate", "json")):
            registry.push(tiny_adapter(folder / name, seed), name, base=MODEL_NAME)
    with blocking(running_worker(folder / "cache", save_model(folder / "model"), address)) as serving:
        yield serving.target


@pytest.fixture
def lorry(lorry: Lorry, worker: str, monkeypatch: pytest.MonkeyPatch) -> Lorry:
    monkeypatch.setenv("LORRY_WORKER", worker)
    return lorry


BRANCHES = ("--branch", "control=pirate", "--branch", "canary=json=0.5,pirate", "--branch", "plain=")


def test_a_route_is_set_shown_and_split_anew(lorry: Lorry) -> None:
    made = lorry("route", "set", "tour", *BRANCHES, "--share", "control=8", "--expect", "0")
    assert made.out == (
        "tour -> control 80.00%: pirate | canary 10.00%: 0.5 json + pirate | plain 10.00%: (base)  (revision 1)\n"
    )
    shared = lorry("route", "set", "tour", "--share", "canary=2", "--share", "plain=2", "--json").json
    assert [(t["name"], t["share"]) for t in shared["targets"]] == [("control", 8), ("canary", 2), ("plain", 2)]
    shown = lorry("route", "show", "tour").out
    for part in ("66.67%", "0.5 json + pirate", "revision  2", shared["targets"][0]["selection_digest"], "base"):
        assert part in shown
    assert lorry("route", "show", "tour", "--json").json == shared


def test_history_tells_every_change_and_rollback_undoes_one(lorry: Lorry) -> None:
    for selection in ("pirate", "json"):
        assert lorry("switch", selection, "--route", "past").code == 0
    back = lorry("route", "rollback", "past", "--expect", "2", "--json").json
    assert (back["revision"], back["change"]) == (3, "ROUTE_CHANGE_ROLLBACK")
    assert [r["revision"] for r in lorry("route", "history", "past", "--json").json] == [3, 2, 1]
    assert "rollback" in lorry("route", "history", "past").out
    assert lorry("route", "rollback", "past", "--revision", "9").code == 6


def test_a_route_is_removed_and_default_is_not(lorry: Lorry) -> None:
    assert lorry("switch", "--route", "brief").code == 0
    assert lorry("route", "rm", "brief").out == "removed brief\n"
    assert lorry("route", "show", "brief").code == 3
    assert lorry("route", "rm", "default").err.startswith("error: INVALID_ARGUMENT: ")


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--branch", "control"),
        ("--branch", "a=pirate", "--branch", "a=json"),
        ("--branch", "a=pirate", "--share", "b=1"),
        ("--share", "a"),
        ("--share", "a=many"),
        ("--share", "a=1", "--expect", "1"),
    ],
)
def test_what_is_written_wrong_is_told(lorry: Lorry, wrong: tuple[str, ...]) -> None:
    assert lorry("route", "set", "tour", *wrong).code == 2


def test_a_user_gets_one_branch_and_a_scale_applies(lorry: Lorry) -> None:
    assert lorry("route", "set", "kept", "--branch", "a=pirate", "--branch", "b=pirate=0.5").code == 0

    def started(*options: str) -> str:
        return lorry("generate", "hi", "--route", "kept", "-n", "1", "--json", *options).out.splitlines()[0]

    assert len({started("--affinity", "ann", "--seed", str(seed)).partition('"seed"')[0] for seed in range(5)}) == 1
    assert re.search('"weight": (3.0|1.5)', started("--scale", "3"))


def test_interpolate_shows_the_line_between_two_adapters(lorry: Lorry) -> None:
    options = ("pirate", "json", "--prompt", "hello", "--steps", "3", "-n", "4")
    points = lorry("interpolate", *options, "--json").json
    assert [point["weights"] for point in points] == [{"pirate": 1}, {"pirate": 0.5, "json": 0.5}, {"json": 1}]
    plain = lorry("interpolate", *options).out
    for point in points:
        assert f"  {point['text']}\n" in plain
    assert "0.50 pirate + 0.50 json\n" in plain
