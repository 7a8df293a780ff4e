"""Lorry's SDK: clients of the adapter registry and of the compute worker, and what both sides share.

    from lorry import LorryError, RegistryClient, WorkerClient   # asyncio
    from lorry import sync                                       # sync.RegistryClient, sync.WorkerClient

The clients load on first use, so that `import lorry` costs nothing to whoever wants `lorry.format` alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorry import sync
    from lorry.errors import LorryError
    from lorry.registry import RegistryClient
    from lorry.worker import WorkerClient

__all__ = ["LorryError", "RegistryClient", "WorkerClient", "sync"]

_HOMES = {"LorryError": "lorry.errors", "RegistryClient": "lorry.registry", "WorkerClient": "lorry.worker"}


def __getattr__(name: str) -> object:
    if name == "sync":
        return import_module("lorry.sync")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lorry' has no attribute {name!r}")
