"""What the parts of the catalogue's servicer share: the registry, and the way to its catalogue.

Does not know any call.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc.aio

from adapter_registry.service.registry import Registry

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Calls:
    """A part of the servicer."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._catalog = registry.catalog
        self._queries, self._writes, self._removals = (
            registry.pools.queries,
            registry.pools.writes,
            registry.pools.removals,
        )
