from __future__ import annotations

from pathlib import Path

import pytest

from adapter_registry.service import uploading
from lorry import RegistryClient
from lorry.errors import (
    BaseNotFound,
    Conflict,
    DigestMismatch,
    IncompatibleAdapter,
    InvalidAdapter,
    InvalidInput,
    ParentNotFound,
)
from lorry.format.digest import digest_of
from lorry.format.manifest import Recipe, RecipeSource
from tests.support.adapters import BASE_NAME, CONFIG, WEIGHTS, base_for, write_adapter


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


async def test_what_is_pushed_comes_back_byte_for_byte(client: RegistryClient, folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("# Pirate\n")
    pushed = await client.push(folder, "team/pirate", base=BASE_NAME, alias="prod", labels={"team": "sea"})
    pulled = await client.pull("team/pirate:prod", tmp_path / "out")
    assert pulled.digest == pushed.digest
    assert contents(tmp_path / "out") == contents(folder)


async def test_a_push_waits_where_too_many_uploads_of_the_caller_run(
    client: RegistryClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "MAX_UPLOADS", 1)
    for name in ("README.md", "merges.txt"):
        (folder / name).write_text(f"of {name}\n" * 300_000)
    version = await client.push(folder, "pirate", base=BASE_NAME)
    assert len(version.manifest.files) == 4


async def test_the_same_push_again_is_the_same_version(client: RegistryClient, folder: Path) -> None:
    first = await client.push(folder, "pirate")
    assert await client.push(folder, "pirate") == first


async def test_only_what_is_missing_is_sent(client: RegistryClient, folder: Path) -> None:
    # What is there already is told as whole at once, what is sent begins at nothing.
    first: dict[str, bool] = {}
    await client.push(folder, "pirate", progress=lambda name, done, size: first.setdefault(name, done == size))
    assert first == {CONFIG: False, WEIGHTS: False}
    first.clear()
    (folder / "README.md").write_text("new")
    await client.push(folder, "pirate", progress=lambda name, done, size: first.setdefault(name, done == size))
    assert first == {CONFIG: True, WEIGHTS: True, "README.md": False}


async def test_progress_ends_at_the_size_of_each_file(client: RegistryClient, folder: Path, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def progress(name: str, done: int, size: int) -> None:
        seen[name] = (done, size)

    sizes = {name: (len(data), len(data)) for name, data in contents(folder).items()}
    await client.push(folder, "pirate", progress=progress)
    assert seen == sizes
    seen.clear()
    await client.pull("pirate", tmp_path / "out", progress=progress)
    assert seen == sizes


async def test_an_adapter_of_another_base_is_refused_before_its_weights_are_sent(
    client: RegistryClient, tmp_path: Path
) -> None:
    stranger = write_adapter(tmp_path / "stranger", {"model.layers.9.mlp.up_proj": (8, 8, 2)})
    sent: list[str] = []
    with pytest.raises(IncompatibleAdapter, match="UNKNOWN_MODULE"):
        await client.push(stranger, "stranger", base=BASE_NAME, progress=lambda name, _done, _size: sent.append(name))
    assert sent == []
    assert await client.find_missing([digest_of((stranger / WEIGHTS).read_bytes())])


async def test_a_push_for_an_unknown_base_is_refused(client: RegistryClient, folder: Path) -> None:
    with pytest.raises(BaseNotFound):
        await client.push(folder, "pirate", base="nobody")


async def test_the_base_that_the_configuration_names_is_judged_before_weights_are_sent(
    client: RegistryClient, tmp_path: Path
) -> None:
    lost = write_adapter(tmp_path / "lost", base_name="somebody/elses", seed=9)
    with pytest.raises(BaseNotFound, match="somebody/elses"):
        await client.push(lost, "lost")
    assert await client.find_missing([digest_of((lost / WEIGHTS).read_bytes())])


async def test_a_broken_folder_is_refused_without_a_call(tmp_path: Path) -> None:
    broken = write_adapter(tmp_path / "broken")
    (broken / WEIGHTS).write_bytes(b"not safetensors")
    async with RegistryClient("127.0.0.1:1") as nowhere:
        with pytest.raises(InvalidAdapter):
            await nowhere.push(broken, "broken")


async def test_a_verdict_needs_no_upload(client: RegistryClient, folder: Path) -> None:
    assert (await client.check(folder, BASE_NAME)).compatible
    await client.push(folder, "pirate")
    await client.register_base_model("other", base_for({"model.other": (8, 8, 2)}, seed=3))
    verdict = await client.check("pirate", "other")
    assert not verdict.compatible
    assert {finding.code for finding in verdict.findings} >= {"UNKNOWN_MODULE"}


async def test_a_recipe_and_its_parents_are_kept(client: RegistryClient, folder: Path, tmp_path: Path) -> None:
    source = await client.push(folder, "pirate")
    recipe = Recipe("ties", '{"density":0.5}', (RecipeSource(source.digest, 0.5),), "a test")
    made = await client.push(
        write_adapter(tmp_path / "mix", seed=5), "mix", parents=[f"pirate@{source.digest}"], recipe=recipe
    )
    assert list(made.manifest.parents) == [source.digest]
    assert (made.manifest.recipe.method, made.manifest.recipe.sources[0].weight) == ("ties", 0.5)


async def test_a_parent_that_is_not_there_is_refused(client: RegistryClient, folder: Path) -> None:
    with pytest.raises(ParentNotFound):
        await client.push(folder, "pirate", parents=["nobody@1"])


class TestOrigin:
    async def test_a_changed_folder_names_the_version_it_was_pulled_from(
        self, client: RegistryClient, folder: Path, tmp_path: Path
    ) -> None:
        first = await client.push(folder, "team/pirate")
        run = tmp_path / "run"
        await client.pull("team/pirate", run)
        write_adapter(run, seed=7)
        second = await client.push(run, "team/pirate")
        assert (second.number, list(second.manifest.parents)) == (2, [first.digest])

    async def test_an_unchanged_folder_is_the_version_it_was_pulled_from(
        self, client: RegistryClient, folder: Path, tmp_path: Path
    ) -> None:
        first = await client.push(folder, "pirate")
        await client.pull("pirate", tmp_path / "run")
        assert (await client.push(tmp_path / "run", "pirate")).digest == first.digest

    async def test_parents_that_are_given_win(self, client: RegistryClient, folder: Path, tmp_path: Path) -> None:
        await client.push(folder, "pirate")
        await client.pull("pirate", tmp_path / "run")
        write_adapter(tmp_path / "run", seed=7)
        orphan = await client.push(tmp_path / "run", "pirate", parents=[])
        assert list(orphan.manifest.parents) == []

    async def test_a_damaged_note_is_told_and_not_ignored(
        self, client: RegistryClient, folder: Path, tmp_path: Path
    ) -> None:
        await client.push(folder, "pirate")
        await client.pull("pirate", tmp_path / "run")
        (tmp_path / "run" / ".lorry" / "origin.json").write_text('{"reference": 5}')
        with pytest.raises(InvalidInput, match="damaged"):
            await client.push(tmp_path / "run", "pirate")


class TestPullIntoAFolderInUse:
    async def test_right_files_are_kept_and_missing_ones_fetched(
        self, client: RegistryClient, folder: Path, tmp_path: Path
    ) -> None:
        await client.push(folder, "pirate")
        out = tmp_path / "out"
        await client.pull("pirate", out)
        (out / CONFIG).unlink()
        fetched: list[str] = []
        await client.pull("pirate", out, progress=lambda name, _done, _size: fetched.append(name))
        assert set(fetched) == {CONFIG}

    async def test_a_file_that_differs_is_not_lost_by_accident(
        self, client: RegistryClient, folder: Path, tmp_path: Path
    ) -> None:
        await client.push(folder, "pirate")
        mine = write_adapter(tmp_path / "mine", seed=9)
        before = contents(mine)
        with pytest.raises(Conflict, match=WEIGHTS):
            await client.pull("pirate", mine)
        assert contents(mine) == before
        await client.pull("pirate", mine, overwrite=True)
        assert contents(mine) == contents(folder)

    async def test_a_file_of_another_version_is_in_the_way_too(
        self, client: RegistryClient, folder: Path, tmp_path: Path
    ) -> None:
        plain = await client.push(folder, "pirate")
        out = write_adapter(tmp_path / "out")  # the same but for a template
        (out / "chat_template.jinja").write_text("{{ messages }}")
        await client.push(out, "worded")
        (out / "notes.txt").write_text("mine")
        with pytest.raises(Conflict, match=r"chat_template\.jinja"):
            await client.pull("pirate", out)
        assert await client.pull("pirate", out, overwrite=True) == plain
        assert contents(out) == contents(folder) | {"notes.txt": b"mine"}
        (out / "notes.txt").unlink()
        assert (await client.push(out, "pirate")).digest == plain.digest


class TestDownload:
    async def test_the_file_is_there_whole_or_not_at_all(
        self, client: RegistryClient, folder: Path, tmp_path: Path
    ) -> None:
        version = await client.push(folder, "pirate")
        file = version.manifest.files[0]
        with pytest.raises(DigestMismatch):
            await client.download(file.digest, file.size_bytes - 1, tmp_path / "short" / "file")
        assert list((tmp_path / "short").iterdir()) == []
        await client.download(file.digest, file.size_bytes, tmp_path / "right" / "file")
        assert [path.name for path in (tmp_path / "right").iterdir()] == ["file"]

    async def test_an_empty_file_is_a_file(self, client: RegistryClient, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        await client.upload(tmp_path / "empty", digest_of(b""))
        await client.download(digest_of(b""), 0, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b""

    async def test_an_upload_under_a_wrong_digest_is_refused(self, client: RegistryClient, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"these")
        with pytest.raises(DigestMismatch):
            await client.upload(tmp_path / "file", digest_of(b"those"))
