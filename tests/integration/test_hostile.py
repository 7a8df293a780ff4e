"""A registry that guards nothing, or lies, against a worker with a real engine: refused, and nothing is touched."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from transformers import LlamaConfig

from lorry import WorkerClient, retry
from lorry.errors import (
    DigestMismatch,
    IncompatibleAdapter,
    InvalidAdapter,
    InvalidInput,
    LorryError,
    NotFound,
    RegistryUnavailable,
    RequestTooLarge,
)
from lorry.format.digest import digest_of
from lorry.format.manifest import ManifestFile
from tests.support.adapters import CONFIG, WEIGHTS, adapter_bytes
from tests.support.evil_registry import EvilRegistry, evil_registry
from tests.support.hostile import HOSTILE, HostileCase
from tests.support.models import from_config
from tests.support.pair import Answer, answer
from tests.support.worker import RunningWorker, running_worker, save_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

# These are wrong in the pusher's folder alone: a worker asks for two files by name, and gets files.
_ON_DISK = {
    "link-out-of-the-folder",
    "pipe-as-weights",
    "folder-as-file",
    "unexpected-file",
    "hidden-file",
    "pickle",
    "pickle-of-the-trainer",
    "pickle-disguised",
    "no-config",
    "no-weights",
}
SERVED = [case for case in HOSTILE if case.name not in _ON_DISK]


@dataclass(frozen=True)
class Siege:
    """The registry, the worker and its client, and how the victim answered before."""

    registry: EvilRegistry
    serving: RunningWorker
    client: WorkerClient
    before: Answer
    base_before: Answer
    scratch: Path

    @property
    def base_id(self) -> str:
        return self.serving.engine.base.base_id


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def siege(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Siege]:
    """One worker for all: what one leaves behind would show up in the next. Its base has the bundles' shapes."""
    folder = tmp_path_factory.mktemp("siege")
    tiny = LlamaConfig(
        vocab_size=131, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=2
    )
    model = save_model(folder / "model", from_config(tiny))
    async with (
        evil_registry() as (registry, address),
        running_worker(folder / "worker", model, address, disk_bytes=64 << 20) as serving,
        WorkerClient(serving.target) as client,
    ):
        registry.add("victim", *adapter_bytes(scale=0.5), serving.engine.base.base_id)
        before = await answer(client, adapters="victim", length=8)
        base = await answer(client, adapters=[], length=8)
        assert not before.same_as(base)
        yield Siege(registry, serving, client, before, base, folder / "worker" / "tmp")


def tensors(serving: RunningWorker) -> dict[str, str]:
    """sha256 of every tensor that a step computes with: the base's own, and the rows of the pool."""
    engine: Any = serving.engine
    state = {**dict(engine._model.named_parameters()), **dict(engine._model.named_buffers())}
    for name, layer in engine._layers.items():
        state |= {f"{name}.pool_a": layer.a, f"{name}.pool_b": layer.b}
    return {name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest() for name, tensor in state.items()}


async def refused(siege: Siege, name: str) -> LorryError:
    """The error that loading ends in, once it is sure that nothing else has changed."""
    before = tensors(siege.serving)
    assert len(before) > 20
    with pytest.raises(LorryError) as caught:
        await siege.client.load(name)
    assert tensors(siege.serving) == before
    assert (await answer(siege.client, adapters="victim", length=8)) == siege.before
    assert (await answer(siege.client, adapters=[], length=8)) == siege.base_before
    held = [resident.names[0] async for resident in siege.client.residents()]
    assert held == ["victim"]
    assert not list(siege.scratch.iterdir())
    return caught.value


@pytest.mark.parametrize("case", SERVED, ids=str)
async def test_a_hostile_adapter_is_refused_and_touches_nothing(
    siege: Siege, tmp_path: Path, case: HostileCase
) -> None:
    case.write(tmp_path)
    files = ((tmp_path / name).read_bytes() for name in (CONFIG, WEIGHTS))
    siege.registry.add("hostile", *files, siege.base_id)
    assert type(await refused(siege, "hostile")) is case.error


def _files(digest: str, size: int) -> tuple[ManifestFile, ...]:
    return tuple(ManifestFile(name, digest, size) for name in (CONFIG, WEIGHTS))


LIES: list[tuple[str, dict[str, Any], type[LorryError]]] = [
    ("another base", {"base_id": digest_of(b"another base")}, IncompatibleAdapter),
    ("a base that is no digest", {"base_id": "tiny"}, InvalidAdapter),
    ("no files", {"files": ()}, InvalidAdapter),
    ("a file that is not there", {"files": (ManifestFile(CONFIG, digest_of(b""), 0),)}, InvalidAdapter),
    ("blobs that are not there", {"files": _files(digest_of(b"nowhere"), 64)}, NotFound),
    ("a digest that is none", {"files": _files("sha256:../../etc/passwd", 64)}, InvalidAdapter),
    ("more bytes than the cache holds", {"files": _files(digest_of(b"nowhere"), 1 << 60)}, RequestTooLarge),
    ("fewer than no bytes", {"files": _files(digest_of(b"nowhere"), -1)}, DigestMismatch),
    ("a schema of the future", {"schema": 2}, InvalidAdapter),
]


@pytest.mark.parametrize(("claims", "error"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
async def test_a_manifest_that_claims_it(siege: Siege, claims: dict[str, Any], error: type[LorryError]) -> None:
    siege.registry.add("liar", *adapter_bytes(seed=7), **{"base_id": siege.base_id, **claims})
    assert isinstance(await refused(siege, "liar"), error)


async def test_another_manifest_than_the_digest_names(siege: Siege) -> None:
    version = siege.registry.add("liar", *adapter_bytes(seed=7), siege.base_id)
    version.digest = digest_of(b"another manifest")
    assert type(await refused(siege, "liar")) is DigestMismatch
    version = siege.registry.add("liar", *adapter_bytes(seed=7), siege.base_id)
    assert type(await refused(siege, f"liar@{digest_of(b'asked for')}")) is DigestMismatch
    version.manifest.variant = 77
    assert type(await refused(siege, "liar")) is InvalidInput


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), DigestMismatch),
        (lambda data: data + b"x", DigestMismatch),
        (lambda data: data[:-1], RegistryUnavailable),
    ],
    ids=["one bit", "a byte more", "a byte less"],
)
async def test_other_bytes_than_the_digest_names(
    siege: Siege, change: Callable[[bytes], bytes], error: type[LorryError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_FAILURES", 2)
    version = siege.registry.add("liar", *adapter_bytes(seed=7), siege.base_id)
    weights = next(file.digest for file in version.manifest.files if file.name == WEIGHTS)
    siege.registry.blobs[weights] = change(siege.registry.blobs[weights])
    assert type(await refused(siege, "liar")) is error


async def test_a_rank_that_the_bytes_do_not_bear_out_is_not_believed(siege: Siege) -> None:
    siege.registry.add("modest", *adapter_bytes(seed=8), siege.base_id, rank=1)
    assert (await siege.client.load("modest")).rank == 2
    await siege.client.unload("modest")
    assert await answer(siege.client, adapters="victim", length=8) == siege.before
