from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from compute_worker.app import engine_settings, runtime_settings
from compute_worker.settings import MIB, Settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LORRY_WORKER_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:7472", "[::1]:7472", "127.8.8.8:1"])
def test_loopback_needs_no_permission(listen: str) -> None:
    assert Settings(listen=listen).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:7472", "[::]:7472", "10.0.0.1:7472", "worker.example:7472", ":7472"])
def test_serving_anybody_must_be_asked_for(listen: str) -> None:
    with pytest.raises(ValidationError, match="LORRY_WORKER_INSECURE=true"):
        Settings(listen=listen)
    assert Settings(listen=listen, insecure=True).listen == listen


def test_access_control_over_tls_may_listen_anywhere(tmp_path: Path) -> None:
    tls = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    assert Settings(listen="0.0.0.0:7472", auth="registry", **tls).auth == "registry"
    for one_alone in (tls, {"auth": "registry"}):
        with pytest.raises(ValidationError, match="LORRY_WORKER_AUTH=registry"):
            Settings(listen="0.0.0.0:7472", **one_alone)


@pytest.mark.parametrize("secret", [{"auth": "registry"}, {"registry_token": "t"}, {"registry_token_file": "token"}])
def test_tokens_go_in_clear_to_loopback_alone_unless_that_is_asked_for(tmp_path: Path, secret: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"LORRY_WORKER_REGISTRY=10\.0\.0\.5:7471 is not loopback"):
        Settings(registry="10.0.0.5:7471", **secret)
    for more in ({"registry": "10.0.0.5:7471", "registry_ca": tmp_path / "ca.pem"}, {"registry": "127.0.0.1:7471"}):
        assert Settings(**secret, **more).registry == more["registry"]
    assert Settings(registry="10.0.0.5:7471", insecure=True, **secret).insecure
    assert Settings(registry="10.0.0.5:7471").registry  # nothing secret is said to it


def test_a_worker_is_known_to_the_registry_by_its_host_and_port_or_by_its_name() -> None:
    assert Settings(listen="127.0.0.1:7472").holder == f"{socket.gethostname()}:7472"
    anywhere = Settings(listen="127.0.0.1:0")
    assert anywhere.holder != Settings(listen="127.0.0.1:0").holder
    assert Settings(name="gpu-1").holder == "gpu-1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POOL_BYTES", "0"),
        ("HOST_BYTES", "-1"),
        ("DISK_BYTES", "many"),
        ("KV_BYTES", "0"),
        ("MAX_CONTEXT", "-1"),
        ("QUEUE", "0"),
        ("MAX_BATCH", "0"),
        ("PREFILL_TOKENS", "0"),
        ("WAIT_SECONDS", "0"),
        ("THREADS", "-1"),
        ("GRACE_SECONDS", "-1"),
        ("DTYPE", "int4"),
        ("AUTH", "required"),
        ("AUTH_GRACE_SECONDS", "-1"),
        ("NAME", "x" * 201),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LORRY_WORKER_{name}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [problem["loc"] for problem in caught.value.errors()] == [(name.lower(),)]


def test_the_environment_reaches_engine_and_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MODEL": "/models/Tiny-Llama",
        "POOL_BYTES": str(MIB),
        "KV_BYTES": str(2 * MIB),
        "MAX_CONTEXT": "512",
        "THREADS": "3",
        "DTYPE": "float32",
        "CACHE_DIR": "/cache",
        "QUEUE": "7",
        "WAIT_SECONDS": "1.5",
    }.items():
        monkeypatch.setenv(f"LORRY_WORKER_{name}", value)
    settings = Settings()
    engine, runtime = engine_settings(settings), runtime_settings(settings)
    assert (engine.model, engine.dtype, engine.pool_bytes) == ("/models/Tiny-Llama", "float32", MIB)
    assert (engine.kv_bytes, engine.max_context, engine.threads) == (2 * MIB, 512, 3)
    assert (runtime.cache_dir, runtime.queue, runtime.default_wait) == (Path("/cache"), 7, 1.5)
    assert runtime.base_name == "tiny-llama"


def test_copies_beside_a_pool_in_host_memory_get_a_fifth_of_it_unless_told() -> None:
    assert Settings(pool_bytes=50 * MIB).host_budget == 10 * MIB
    assert Settings(pool_bytes=50 * MIB, device="cuda").host_budget == 512 * MIB
    assert Settings(pool_bytes=50 * MIB, host_bytes=7 * MIB).host_budget == 7 * MIB


def test_a_name_of_its_own_stands_for_the_models_folder() -> None:
    assert Settings(model="/models/x", model_name="mine").base_name == "mine"


def test_no_setting_names_a_store_or_a_database() -> None:
    assert not [name for name in Settings.model_fields if any(word in name for word in ("s3", "database", "secret"))]
