"""The routes on disk: one small file, replaced as a whole, so that a restarted worker has them again.

Owns the file's form. What cannot be read, or was written for another base, is as good as not there.
Does not know what a route is for, nor how its adapters come back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from compute_worker.runtime.api import Resolved, RouteState
from compute_worker.runtime.files import write_whole
from lorry.errors import LorryError
from lorry.format.reference import check_name, parse_reference

_log = logging.getLogger(__name__)


class RouteBook:
    """Routes in a file. base_id: of the base that this worker serves."""

    def __init__(self, path: Path, base_id: str) -> None:
        self._path = path
        self._base_id = base_id

    def write(self, routes: Iterable[RouteState]) -> None:
        """Put these routes in the place of all others. Raises StorageUnavailable."""
        said = {"base_id": self._base_id, "routes": [_written(route) for route in routes]}
        write_whole(self._path, json.dumps(said).encode())

    def read(self) -> list[RouteState]:
        """The routes as they were written last."""
        try:
            said = json.loads(self._path.read_bytes())
            return [_read(route) for route in said["routes"]] if said["base_id"] == self._base_id else []
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, LorryError) as error:
            _log.warning("the routes in %s cannot be read, and are gone: %s", self._path, error)
            return []


def _written(route: RouteState) -> dict[str, Any]:
    adapters = [{"adapter": a.adapter, "digest": a.digest, "weight": a.weight} for a in route.adapters]
    return {
        "name": route.name,
        "revision": route.revision,
        "updated": route.updated.isoformat(),
        "adapters": adapters,
    }


def _read(said: dict[str, Any]) -> RouteState:
    adapters = tuple(Resolved(str(a["adapter"]), str(a["digest"]), float(a["weight"])) for a in said["adapters"])
    for adapter in adapters:
        parse_reference(adapter.adapter)
    return RouteState(
        check_name(said["name"], "route"), int(said["revision"]), adapters, datetime.fromisoformat(said["updated"])
    )
