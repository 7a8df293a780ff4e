"""A registry without a guard: it serves whatever a test puts in, under whatever manifest the test claims.

Owns the rpcs that read a version and its bytes, over a real socket. Looks at nothing that it serves.
Does not know what is wrong with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from lorry.errors import AdapterNotFound, BlobNotFound, LorryError
from lorry.format.digest import digest_of
from lorry.format.manifest import Manifest, ManifestFile
from lorry.format.reference import parse_reference
from lorry.rpc.chunks import CHUNK_BYTES
from lorry.rpc.convert import manifest_to_pb
from lorry.rpc.serving import Service, serving
from lorry.v1 import blob_pb2, catalog_pb2, types_pb2
from lorry.v1.blob_pb2_grpc import BlobServiceServicer, add_BlobServiceServicer_to_server
from lorry.v1.catalog_pb2_grpc import CatalogServiceServicer, add_CatalogServiceServicer_to_server
from tests.support.adapters import CONFIG, WEIGHTS


class EvilRegistry(CatalogServiceServicer, BlobServiceServicer):
    """`add` fills it. `versions` by name and `blobs` by digest may be changed at will.

    failure: what Resolve raises, where it is set. silent: Resolve never answers. compatible: its
    verdict on any version and any base.
    """

    def __init__(self) -> None:
        self.versions: dict[str, types_pb2.Version] = {}
        self.blobs: dict[str, bytes] = {}
        self.failure: LorryError | None = None
        self.silent = False
        self.compatible = False

    def add(self, name: str, config: bytes, weights: bytes, base_id: str, **claims: Any) -> types_pb2.Version:
        """A version of these two files whose manifest fits their bytes, but for what `claims` puts over it."""
        files = tuple(self._blob(*file) for file in ((CONFIG, config), (WEIGHTS, weights)))
        honest = Manifest(files, base_id, "{}", rank=2, alpha=4.0, target_modules=(), variant="lora")
        manifest = replace(honest, **claims)
        version = types_pb2.Version(
            digest=manifest.digest, namespace="default", name=name, number=1, manifest=manifest_to_pb(manifest)
        )
        self.versions[name] = version
        return version

    async def Resolve(  # noqa: N802 - the rpc's name
        self, request: catalog_pb2.ResolveRequest, _context: Any
    ) -> catalog_pb2.ResolveResponse:
        """The version of that name, whatever stands behind the name."""
        if self.silent:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        name = parse_reference(request.adapter).adapter.name
        if name not in self.versions:
            raise AdapterNotFound(f"no adapter {name}")
        return catalog_pb2.ResolveResponse(version=self.versions[name])

    async def GetVersion(  # noqa: N802 - the rpc's name
        self, request: catalog_pb2.GetVersionRequest, _context: Any
    ) -> catalog_pb2.GetVersionResponse:
        """As Resolve."""
        return catalog_pb2.GetVersionResponse(version=self.versions[parse_reference(request.adapter).adapter.name])

    async def GetLineage(  # noqa: N802 - the rpc's name
        self, request: catalog_pb2.GetLineageRequest, _context: Any
    ) -> catalog_pb2.GetLineageResponse:
        """As Resolve, and no relatives."""
        digest = self.versions[parse_reference(request.adapter).adapter.name].digest
        return catalog_pb2.GetLineageResponse(nodes=[catalog_pb2.LineageNode(digest=digest)])

    async def CheckCompatibility(  # noqa: N802 - the rpc's name
        self, _request: catalog_pb2.CheckCompatibilityRequest, _context: Any
    ) -> catalog_pb2.CheckCompatibilityResponse:
        """Whatever the test wants it to say."""
        return catalog_pb2.CheckCompatibilityResponse(compatible=self.compatible)

    async def Read(  # noqa: N802 - the rpc's name
        self, request: blob_pb2.ReadRequest, _context: Any
    ) -> AsyncIterator[blob_pb2.ReadResponse]:
        """The bytes under that digest, be they what they may."""
        if request.digest not in self.blobs:
            raise BlobNotFound(f"no blob {request.digest}")
        data = self.blobs[request.digest]
        for offset in range(request.offset, len(data), CHUNK_BYTES):
            yield blob_pb2.ReadResponse(offset=offset, data=data[offset : offset + CHUNK_BYTES])

    def _blob(self, name: str, data: bytes) -> ManifestFile:
        digest = digest_of(data)
        self.blobs[digest] = data
        return ManifestFile(name, digest, len(data))


@asynccontextmanager
async def evil_registry() -> AsyncIterator[tuple[EvilRegistry, str]]:
    """The registry and its `host:port`."""
    registry = EvilRegistry()
    services = [
        Service("lorry.v1.CatalogService", lambda server: add_CatalogServiceServicer_to_server(registry, server)),
        Service("lorry.v1.BlobService", lambda server: add_BlobServiceServicer_to_server(registry, server)),
    ]
    async with serving("127.0.0.1:0", services, draining=asyncio.Event(), grace=0) as listening:
        yield registry, listening.address
