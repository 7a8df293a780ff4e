from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Lorry
from tests.support.adapters import BASE_NAME, CONFIG, WEIGHTS, write_adapter
from tests.support.tiny_kinds import KINDS


def test_push_ls_show_and_pull(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    pushed = lorry("push", folder, "tour/pirate", "--base", BASE_NAME, "--alias", "prod", "--label", "team=sea")
    assert pushed.code == 0
    assert pushed.out.startswith("tour/pirate@1  sha256:")

    listed = lorry("ls", "--namespace", "tour")
    assert ("tour/pirate" in listed.out, "team=sea" in listed.out, "prod" in listed.out) == (True, True, True)

    shown = lorry("show", "tour/pirate:prod")
    assert (CONFIG in shown.out, WEIGHTS in shown.out, "rank" in shown.out) == (True, True, True)

    assert lorry("pull", "tour/pirate", str(tmp_path / "out")).code == 0
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (Path(folder) / WEIGHTS).read_bytes()


def test_show_and_ls_tell_what_an_adapter_does_beyond_lora(lorry: Lorry, tmp_path: Path) -> None:
    lorry("push", str(KINDS["tokens-resized"].write(tmp_path / "new")), "kinds/words", "--base", BASE_NAME)
    assert "modules_to_save trainable_tokens" in lorry("show", "kinds/words").out
    (version,) = lorry("ls", "kinds/words", "--servable-on", BASE_NAME, "--json").json
    assert version["manifest"]["features"] == ["modules_to_save", "trainable_tokens"]
    assert "trainable_tokens" in lorry("ls", "kinds/words").out


def test_pull_writes_into_a_folder_of_the_adapters_name(
    lorry: Lorry, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lorry("push", folder, "named/haiku")
    monkeypatch.chdir(tmp_path)
    assert lorry("pull", "named/haiku").code == 0
    assert (tmp_path / "haiku" / CONFIG).exists()


def test_a_folder_in_use_is_overwritten_on_purpose_alone(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    lorry("push", folder, "used/pirate")
    mine = str(write_adapter(tmp_path / "mine", seed=3))
    refused = lorry("pull", "used/pirate", mine)
    assert (refused.code, refused.err.count("\n")) == (4, 1)
    assert lorry("pull", "used/pirate", mine, "--force").code == 0


def test_the_lineage_of_a_continued_run_is_shown(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    first = lorry("push", folder, "line/pirate", "--json").json
    run = tmp_path / "run"
    lorry("pull", "line/pirate", str(run))
    write_adapter(run, seed=2)
    second = lorry("push", str(run), "line/pirate", "--json").json
    assert second["manifest"]["parents"] == [first["digest"]]
    assert first["digest"] in lorry("show", "line/pirate@2").out
    write_adapter(run, seed=3)
    assert lorry("push", str(run), "line/pirate", "--no-parent", "--json").json["manifest"]["parents"] == []
    write_adapter(run, seed=4)
    chosen = lorry("push", str(run), "line/pirate", "--parent", "line/pirate@2", "--json").json
    assert chosen["manifest"]["parents"] == [second["digest"]]
    assert [line["number"] for line in lorry("ls", "line/pirate", "--json").json] == [4, 3, 2, 1]


def test_an_alias_has_a_life_and_a_history(lorry: Lorry, folder: str) -> None:
    lorry("push", folder, "alias/pirate")
    assert lorry("alias", "set", "alias/pirate@1", "prod", "--expect", "0").code == 0
    assert lorry("alias", "set", "alias/pirate@1", "prod", "--expect", "0").code == 4
    assert "prod" in lorry("alias", "ls", "alias/pirate").out
    assert lorry("alias", "rm", "alias/pirate", "prod").code == 0
    moves = lorry("alias", "history", "alias/pirate", "prod", "--json").json
    assert [move["revision"] for move in moves] == [2, 1]


def test_resolve_says_what_a_reference_means(lorry: Lorry, folder: str) -> None:
    pushed = lorry("push", folder, "res/pirate", "--json").json
    assert lorry("resolve", "res/pirate").out == f"res/pirate@1  {pushed['digest']}\n"


def test_a_yanked_version_is_refused_by_name_with_the_reason(lorry: Lorry, folder: str) -> None:
    lorry("push", folder, "yank/pirate")
    assert lorry("yank", "yank/pirate@1", "--reason", "bad data").code == 0
    refused = lorry("resolve", "yank/pirate@1")
    assert refused.code == 6
    assert refused.err.startswith("error: VERSION_YANKED: ")
    assert "bad data" in refused.err


def test_update_adds_labels_and_keeps_the_others(lorry: Lorry, folder: str) -> None:
    lorry("push", folder, "upd/pirate", "--label", "team=sea")
    updated = lorry("update", "upd/pirate", "--label", "stage=test", "--description", "Arr", "--json").json
    assert (updated["labels"], updated["description"]) == ({"stage": "test", "team": "sea"}, "Arr")
    assert lorry("update", "upd/pirate", "--clear-labels", "--json").json["labels"] == {}
    assert lorry("update", "upd/pirate").code == 2


def test_rm_deletes_a_version_and_with_all_the_adapter(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    lorry("push", folder, "gone/pirate")
    lorry("push", str(write_adapter(tmp_path / "b", seed=1)), "gone/pirate", "--alias", "prod")
    assert lorry("rm", "gone/pirate@1").code == 0
    assert lorry("rm", "gone/pirate@2").code == 6
    assert lorry("rm", "gone/pirate").code == 2
    assert lorry("rm", "gone/pirate", "--all").code == 0
    assert lorry("ls", "gone/pirate").code == 3


def test_a_filter_chooses(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    lorry("push", folder, "filter/plain")
    lorry("push", str(write_adapter(tmp_path / "b", dora=True)), "filter/dora")
    found = lorry("ls", "--namespace", "filter", "--filter", "variant = dora", "--json").json
    assert [adapter["name"] for adapter in found] == ["dora"]


def test_check_judges_a_folder_and_a_version(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    assert lorry("check", folder, BASE_NAME).out.startswith("compatible\n")
    lorry("push", folder, "check/pirate")
    assert lorry("check", "check/pirate", BASE_NAME, "--json").json["compatible"] is True
    stranger = write_adapter(tmp_path / "stranger", {"model.layers.9.mlp.up_proj": (8, 8, 2)})
    verdict = lorry("check", str(stranger), BASE_NAME)
    assert verdict.code == 6
    assert verdict.out.startswith("not compatible\n")
    assert "UNKNOWN_MODULE" in verdict.out


def test_bases_are_listed_and_shown(lorry: Lorry) -> None:
    assert BASE_NAME in lorry("base", "ls").out
    assert "model.embed_tokens" in lorry("base", "show", BASE_NAME).out
    shown = lorry("base", "show", BASE_NAME, "--json").json
    assert {"name": "lm_head", "kind": "MODULE_KIND_LINEAR", "in_features": 8, "out_features": 32} in shown["modules"]
