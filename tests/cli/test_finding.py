"""`lorry ls` with its flags, `lorry lineage`, `lorry leases`, `lorry alias rollback` and retention."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from lorry import sync
from lorry.cli.where import Flags, filter_of
from tests.cli.conftest import Lorry
from tests.support.adapters import BASE_NAME, write_adapter


@pytest.mark.parametrize(
    ("text", "flags", "wanted"),
    [
        ("", Flags({}), ""),
        (" ", Flags({"base": None}), ""),
        ("rank<=8", Flags({}), "rank<=8"),
        ("rank<=8", Flags({"base": "tiny", "fits": None}), 'rank<=8 AND base="tiny"'),
        ("", Flags({}, rank="16"), 'rank="16"'),
        ("", Flags({}, rank=" <= 16 "), 'rank<="16"'),
        ("", Flags({}, rank="!=16", size=">10MiB"), 'rank!="16" AND size>10485760'),
        ("", Flags({}, since="2026-01-01", until="2026-02-01"), 'created>="2026-01-01" AND created<="2026-02-01"'),
        (
            "",
            Flags({}, labels={"a b": 'x" AND name="y', "c": "\\"}),
            'labels."a b"="x\\" AND name=\\"y" AND labels."c"="\\\\"',
        ),
    ],
)
def test_flags_become_terms_that_no_value_can_end(text: str, flags: Flags, wanted: str) -> None:
    assert filter_of(text, flags) == wanted


@pytest.mark.parametrize("flags", [Flags({}, rank="<="), Flags({}, size="<big"), Flags({}, size="")])
def test_a_comparison_with_nothing_is_wrong_usage(flags: Flags) -> None:
    with pytest.raises(typer.BadParameter):
        filter_of("", flags)


def test_ls_chooses_by_flags(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    lorry("push", folder, "flags/plain", "--alias", "prod", "--label", "team=night shift")
    lorry("push", str(write_adapter(tmp_path / "b", seed=1, dora=True)), "flags/dora")

    def found(*flags: str) -> list[str]:
        return [adapter["name"] for adapter in lorry("ls", "--namespace", "flags", *flags, "--json").json]

    assert found() == ["dora", "plain"]
    assert found("--variant", "dora") == ["dora"]
    assert found("--alias", "prod", "--label", "team=night shift") == ["plain"]
    assert found("--base", BASE_NAME, "--module", "q_proj", "--rank", "<=16", "--size", "<1MiB") == ["dora", "plain"]
    assert found("--fits", BASE_NAME, "--filter", "variant=lora") == ["plain"]
    assert found("--since", "2020-01-01", "--until", "2020-12-31") == []
    assert lorry("ls", "--since", "soon").code == 2
    assert lorry("ls", "--rank", "<").code == 2


def test_ls_of_a_name_chooses_versions_by_flags(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    lorry("push", folder, "old/pirate", "--alias", "prod")
    lorry("push", str(write_adapter(tmp_path / "b", seed=1, rslora=True)), "old/pirate")
    assert [v["number"] for v in lorry("ls", "old/pirate", "--variant", "rslora", "--json").json] == [2]
    assert [v["number"] for v in lorry("ls", "old/pirate", "--alias", "prod", "--json").json] == [1]
    assert lorry("ls", "old/pirate", "--label", "a=b").code == 2


def test_lineage_is_drawn_both_ways(lorry: Lorry, tmp_path: Path) -> None:
    first = lorry("push", str(write_adapter(tmp_path / "first", seed=30)), "tree/first", "--json").json
    family = (("left", ["first"]), ("right", ["first"]), ("last", ["left", "right"]))
    for seed, (name, parents) in enumerate(family, 31):
        made = str(write_adapter(tmp_path / name, seed=seed))
        lorry("push", made, f"tree/{name}", *(part for parent in parents for part in ("--parent", f"tree/{parent}")))
    up = lorry("lineage", "tree/last").out
    assert (up.count("tree/left@1"), up.count("tree/first@1"), up.count("as above")) == (1, 2, 1)
    assert ("made out of" in up, "made into" in up) == (True, False)
    down = lorry("lineage", "tree/first", "--depth", "1")
    assert down.out.startswith(f"tree/first@1  {first['digest'][:19]}\n")
    assert ("made into" in down.out, "tree/last@1" in down.out) == (True, False)
    assert down.err == "there is more than this\n"
    graph = lorry("lineage", "tree/left", "--json").json
    assert graph["nodes"][0]["published_as"] == ["tree/left@1"]
    assert len(graph["edges"]) == 2


def test_the_edges_of_a_lineage_tell_method_and_weight(lorry: Lorry, address: str, tmp_path: Path) -> None:
    from lorry.format.manifest import Recipe, RecipeSource
    from lorry.rpc.convert import file_from_pb

    with sync.RegistryClient(address) as client:
        source = client.push(write_adapter(tmp_path / "source", seed=40), "mix/source")
        stored = client.push(write_adapter(tmp_path / "mixed", seed=41), "mix/stored")
        recipe = Recipe("ties", "{}", (RecipeSource(source.digest, -0.5),), "test 1")
        client.create_version("mix/mixed", [file_from_pb(f) for f in stored.manifest.files], recipe=recipe)
    assert "ties -0.5  mix/source@1" in lorry("lineage", "mix/mixed").out
    assert "ties -0.5  mix/mixed@1" in lorry("lineage", "mix/source").out


def test_a_version_of_many_names_is_drawn_with_three(lorry: Lorry, tmp_path: Path) -> None:
    folder = str(write_adapter(tmp_path / "many", seed=50))
    for name in "abcde":
        lorry("push", folder, f"many/{name}")
    assert lorry("lineage", "many/e").out.startswith("many/a@1 many/b@1 many/c@1 and 2 more  sha256:")


def test_leases_tell_who_uses_what(lorry: Lorry, address: str, folder: str) -> None:
    pushed = lorry("push", folder, "used-by/pirate", "--json").json
    with sync.RegistryClient(address) as client:
        client.renew_leases("gpu-1:7472", [f"used-by/pirate@{pushed['digest']}"])
    assert "gpu-1:7472" in lorry("leases", "used-by/pirate").out
    assert [lease["number"] for lease in lorry("leases", "used-by/pirate", "--json").json] == [1]
    assert lorry("rm", "used-by/pirate@1").code == 6
    forced = lorry("rm", "used-by/pirate@1", "--force")
    assert (forced.code, "gpu-1:7472" in forced.err) == (0, True)


def test_an_alias_is_rolled_back(lorry: Lorry, folder: str, tmp_path: Path) -> None:
    lorry("push", folder, "back/pirate", "--alias", "prod")
    assert lorry("alias", "rollback", "back/pirate", "prod").code == 6
    lorry("push", str(write_adapter(tmp_path / "b", seed=1)), "back/pirate", "--alias", "prod")
    assert lorry("alias", "rollback", "back/pirate", "prod", "--expect", "1").code == 4
    assert lorry("alias", "rollback", "back/pirate", "prod", "--expect", "2").out.startswith("prod -> @1  sha256:")
    assert lorry("alias", "rollback", "back/pirate", "prod", "--json").json["number"] == 2


def test_retention_is_set_and_shown(lorry: Lorry, folder: str) -> None:
    lorry("push", folder, "keep/pirate")
    assert lorry("update", "keep/pirate", "--keep-last", "5", "--json").json["keep_last"] == 5
    assert "the newest 5, and what is needed" in lorry("show", "keep/pirate").out
    assert lorry("update", "keep/pirate", "--keep-last", "-1").code == 2
    assert lorry("update", "keep/pirate", "--keep-last", "0", "--json").json["keep_last"] == 0
