"""Migrations, on both databases, for real."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from adapter_registry.store.database import create_engine_for
from adapter_registry.store.migrate import current_is_head, migration, upgrade
from lorry.errors import FailedPrecondition, InvalidInput, StorageUnavailable
from lorry.format.digest import digest_of


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        return request.getfixturevalue("empty_postgres_url")
    return f"sqlite:///{request.getfixturevalue('tmp_path') / 'catalog.db'}"


def tables(url: str) -> set[str]:
    engine = create_engine_for(url, 1)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_up_down_and_up_again(empty_url: str) -> None:
    upgrade(empty_url)
    made = tables(empty_url)
    with migration(empty_url) as config:
        command.downgrade(config, "base")
    assert tables(empty_url) == {"alembic_version"}
    upgrade(empty_url)
    assert tables(empty_url) == made


def test_the_tables_are_those_of_the_models(empty_url: str) -> None:
    upgrade(empty_url)
    with migration(empty_url) as config:
        command.check(config)  # raises where autogenerate would find something to do


def test_head_is_told_from_anything_else(empty_url: str) -> None:
    assert not current_is_head(empty_url)
    upgrade(empty_url)
    assert current_is_head(empty_url)
    with migration(empty_url) as config:
        command.downgrade(config, "base")
    assert not current_is_head(empty_url)


def test_signatures_by_key_become_envelopes_and_again_signatures(empty_url: str) -> None:
    values = {"moment": datetime(2026, 1, 2, tzinfo=UTC)}
    one, both = (json.dumps({"signatures": [{"keyid": key} for key in keys]}).encode() for keys in ("a", "ab"))
    before = [(1, "a", one), (1, "b", both), (2, "a", both), (2, "b", both)]
    with migration(empty_url) as config:
        command.upgrade(config, "0002")
        run = config.attributes["connection"].execute
        run(text("INSERT INTO adapters VALUES (1, 'default', 'cat', :moment, 1, 2, 2, 2, false, '', 0)"), values)
        version = "INSERT INTO versions VALUES (:n, 1, :n, :v, 'base', 'lora', 4, 10, :moment, NULL, '[]', '{}')"
        for number in (1, 2):
            run(text(version), values | {"n": number, "v": f"v{number}"})
        for number, key, envelope in before:
            row = values | {"version": number, "key": key, "envelope": envelope}
            run(text("INSERT INTO signatures VALUES (:version, :key, :envelope, :moment)"), row)
    with migration(empty_url) as config:
        command.upgrade(config, "head")
        held = config.attributes["connection"].execute(text("SELECT version, digest, envelope FROM envelopes")).all()
        assert {tuple(row) for row in held} == {
            (number, digest_of(each), each) for number, each in ((1, one), (1, both), (2, both))
        }
    with migration(empty_url) as config:
        command.downgrade(config, "0002")
        back = config.attributes["connection"].execute(text("SELECT version, key_id, envelope FROM signatures")).all()
        assert {row[:2] for row in back} == {row[:2] for row in before}


def test_a_database_of_a_later_release_is_left_alone(empty_url: str) -> None:
    upgrade(empty_url)
    with migration(empty_url) as config:
        config.attributes["connection"].exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for use in (upgrade, current_is_head):
        with pytest.raises(FailedPrecondition, match=r"of a later release \(9999\)"):
            use(empty_url)


def test_an_upgrade_of_an_upgraded_database_changes_nothing(empty_url: str) -> None:
    upgrade(empty_url)
    upgrade(empty_url)
    assert current_is_head(empty_url)


def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    def fail() -> None:
        with migration(empty_url) as config:
            command.upgrade(config, "head")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert tables(empty_url) == set()


def test_a_folder_with_percent_and_space_in_its_name_is_a_place_for_a_database(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("50%s of a place")
    upgrade(f"sqlite:///{folder / 'catalog.db'}")
    assert (folder / "catalog.db").exists()


def test_a_database_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        upgrade(f"sqlite:///{tmp_path / 'no' / 'catalog.db'}")


@pytest.mark.parametrize("url", ["", "catalog.db", "sqlite://", "sqlite:///:memory:", "mysql://user:secret@host/db"])
def test_what_is_no_url_of_a_database_is_refused_without_telling_its_secrets(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^database URL: expected (sqlite:///FILE|a file)") as refused:
        upgrade(url)
    assert "secret" not in refused.value.message
