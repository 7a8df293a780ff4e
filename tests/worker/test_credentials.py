"""A worker behind TLS, which shows a token of its own to a registry that lets nobody else in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from compute_worker.settings import Settings
from lorry import RegistryClient, WorkerClient
from lorry.errors import Unauthenticated, Unavailable
from tests.support.certificates import Authority
from tests.support.tenants import OPERATOR, OURS, guarded_registry
from tests.support.worker import MODEL_NAME, running_worker, save_model, tiny_adapter, tiny_base


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"registry_token": "a", "registry_token_file": Path("b")}, "not both"),
        ({"registry_cert": Path("a"), "registry_ca": Path("c")}, "LORRY_WORKER_REGISTRY_KEY together"),
        ({"registry_cert": Path("a"), "registry_key": Path("b")}, "beside LORRY_WORKER_REGISTRY_CA"),
        ({"tls_cert": Path("a")}, "LORRY_WORKER_TLS_KEY together"),
    ],
)
def test_credentials_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        Settings(**settings)
    assert "input_value" not in str(caught.value)


def test_a_token_comes_from_the_environment_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("lorry_x\n")
    assert Settings(registry_token_file=file).registry_credentials() == {"token": "lorry_x"}
    roots, pair = Path("roots"), (Path("a"), Path("b"))
    shown = Settings(registry_token="lorry_y", registry_ca=roots, registry_cert=pair[0], registry_key=pair[1])  # noqa: S106
    assert shown.registry_credentials() == {"token": "lorry_y", "root_certificates": roots, "certificate": pair}
    assert "lorry_y" not in repr(shown)


async def test_the_pair_works_where_everything_must_be_proved(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    pair = authority.server()
    async with guarded_registry(tmp_path / "registry", authority) as world:
        async with world.client(OPERATOR) as operator:
            await operator.register_base_model(MODEL_NAME, tiny_base())
            token = (await operator.create_token("gpu-1", {"*": "read"}, delegate=True)).token
        async with world.client(OURS) as ours:
            await ours.push(tiny_adapter(tmp_path / "cat", seed=1), "ours/cat", base=MODEL_NAME)
        tls = {"tls_cert": pair.certificate, "tls_key": pair.key}
        shown = {"registry_token": token, "registry_ca": world.root}
        model = save_model(tmp_path / "model")
        async with running_worker(tmp_path / "cache", model, world.target, **tls, **shown) as worker:
            async with WorkerClient(worker.target, root_certificates=world.root) as client:
                assert (await client.load("ours/cat")).digest
            async with WorkerClient(worker.target) as plain:
                with pytest.raises(Unavailable):
                    await plain.within(10).capabilities()
        async with RegistryClient(world.target, root_certificates=world.root) as nobody:
            with pytest.raises(Unauthenticated):
                await nobody.resolve("ours/cat")
