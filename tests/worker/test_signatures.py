"""A worker that trusts one key, beside a registry that takes everything: both real."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry import RegistryClient, WorkerClient
from lorry.errors import InvalidInput, SignatureRequired
from lorry.signing import new_key, signing_key
from tests.support.registry import DEADLINE, running_registry
from tests.support.worker import MODEL_NAME, running_worker, save_model, tiny_adapter, tiny_base

KEY, OTHER = signing_key(new_key()[0]), signing_key(new_key()[0])


async def test_what_the_trusted_key_signed_is_served_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "key.pub.pem").write_bytes(KEY.public.pem)
    trusted = tmp_path / "trusted.toml"
    trusted.write_text('"*" = ["key.pub.pem"]\nscratch = "unsigned"\n')
    model, folder = save_model(tmp_path / "model"), tiny_adapter(tmp_path / "adapter", seed=1)
    async with (
        running_registry(tmp_path / "registry") as address,
        RegistryClient(address) as registry,
        running_worker(tmp_path / "cache", model, address, trusted_keys=trusted) as running,
        WorkerClient(running.target, timeout=DEADLINE) as worker,
    ):
        await registry.register_base_model(MODEL_NAME, tiny_base())
        await registry.push(folder, "team/signed", key=KEY)
        await registry.push(folder, "team/strange", key=OTHER)
        await registry.push(folder, "team/plain")
        await registry.push(folder, "scratch/plain")
        for name in ("team/signed", "scratch/plain"):
            await worker.load(name)
        for name in ("team/strange", "team/plain"):
            with pytest.raises(SignatureRequired, match=KEY.public.id):
                await worker.load(name)
        await registry.sign_version("team/plain", KEY)
        await worker.load("team/plain")


async def test_a_worker_whose_keys_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    with pytest.raises(InvalidInput, match="trusted keys"):
        async with running_worker(tmp_path, model, "127.0.0.1:1", trusted_keys=tmp_path / "absent.toml"):
            pytest.fail("it started")
