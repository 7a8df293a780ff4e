"""A publication whose answer was lost is sent again where that undoes nobody's work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from lorry import RegistryClient
from lorry.errors import Unavailable
from lorry.rpc.convert import file_from_pb
from lorry.rpc.serving import Service, serving
from lorry.v1 import catalog_pb2 as pb
from lorry.v1.catalog_pb2_grpc import CatalogServiceServicer, CatalogServiceStub, add_CatalogServiceServicer_to_server
from tests.support.registry import running_registry
from tests.support.worker import MODEL_NAME, tiny_adapter, tiny_base


@dataclass
class Front(CatalogServiceServicer):
    """A registry whose first answer to each publication is lost on the way."""

    behind: CatalogServiceStub
    asked: list[str] = field(default_factory=list)

    async def CreateVersion(  # noqa: N802 - the contract's
        self, request: pb.CreateVersionRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.CreateVersionResponse:
        answer: pb.CreateVersionResponse = await self.behind.CreateVersion(request)
        self.asked.append(request.adapter)
        if self.asked.count(request.adapter) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        return answer


@asynccontextmanager
async def fronted(target: str) -> AsyncIterator[tuple[Front, RegistryClient]]:
    async with grpc.aio.insecure_channel(target) as channel:
        front = Front(CatalogServiceStub(channel))
        service = Service("lorry.v1.CatalogService", lambda s: add_CatalogServiceServicer_to_server(front, s))
        async with (
            serving("127.0.0.1:0", [service], draining=asyncio.Event(), grace=0) as listening,
            RegistryClient(listening.address) as client,
        ):
            yield front, client


async def test_an_alias_that_somebody_moved_back_meanwhile_stays_there(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "registry") as target, RegistryClient(target) as real:
        await real.register_base_model(MODEL_NAME, tiny_base())
        for seed, name in enumerate(("cat", "spare", "dog")):
            await real.push(tiny_adapter(tmp_path / name, seed=seed), name, alias="prod")
        files = [file_from_pb(file) for file in (await real.version("spare")).manifest.files]
        async with fronted(target) as (front, client):
            with pytest.raises(Unavailable):
                await client.create_version("cat", files, base=MODEL_NAME, alias="prod")
            await real.rollback_alias("cat", "prod")
            again = await client.create_version("dog", files, base=MODEL_NAME)

        assert (await real.resolve("cat:prod")).number == 1
        assert (again.number, (await real.version("dog@2")).digest) == (2, again.digest)
        assert front.asked == ["cat", "dog", "dog"]
