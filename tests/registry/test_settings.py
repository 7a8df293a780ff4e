from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from adapter_registry.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LORRY_REGISTRY_"):
            monkeypatch.delenv(name)


def test_the_default_is_files_below_the_data_folder_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.listen == "127.0.0.1:7471"
    assert settings.database == f"sqlite:///{tmp_path}/var/registry/catalog.db"
    assert settings.blob_store == f"file://{tmp_path}/var/registry"


def test_every_setting_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    for name, value in {
        "LISTEN": "0.0.0.0:1",
        "INSECURE": "true",
        "DATABASE_URL": "postgresql://u:p@db/lorry",
        "BLOBS": "s3://bucket/prefix",
        "S3_ENDPOINT": "http://s3:9000",
        "S3_REGION": "eu-west-1",
        "S3_ACCESS_KEY_ID": "id",
        "S3_SECRET_ACCESS_KEY_FILE": str(secret),
        "S3_TIMEOUT_SECONDS": "30",
        "GRACE_SECONDS": "5",
    }.items():
        monkeypatch.setenv(f"LORRY_REGISTRY_{name}", value)
    settings = Settings()
    assert settings.database == "postgresql://u:p@db/lorry"
    assert (settings.blob_store, settings.s3_secret(), settings.grace_seconds) == ("s3://bucket/prefix", "s3cret", 5)
    assert settings.s3_timeout_seconds == 30


def test_a_budget_without_a_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="LORRY_REGISTRY_CACHE_DIR"):
        Settings(cache_bytes=1 << 30)
    assert Settings(cache_bytes=1 << 30, cache_dir=tmp_path).cache_bytes == 1 << 30


def test_secrets_are_not_shown() -> None:
    word = "hunter2"
    settings = Settings(database_url="postgresql://u:hunter2@db/x", s3_secret_access_key=word)
    assert "hunter2" not in repr(settings)
    assert settings.s3_secret() == "hunter2"


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "registry.example.com:1", "127.evil.com:1"])
def test_anonymous_callers_from_elsewhere_must_be_asked_for(listen: str) -> None:
    with pytest.raises(ValidationError, match="LORRY_REGISTRY_INSECURE=true"):
        Settings(listen=listen)
    assert Settings(listen=listen, insecure=True).listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1", ":1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:x", "127.0.0.1:²"])
def test_an_address_is_host_and_port(listen: str) -> None:
    with pytest.raises(ValidationError, match="expected host:port"):
        Settings(listen=listen)
