"""The routes on disk: a small file each, replaced as a whole, so that a restarted worker has them again.

Owns the files' form: the revisions of a route that are kept. What cannot be read, or was written for
another base, is as good as not there. Does not know what a route is for, nor how its adapters come back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from compute_worker.runtime.api import Branch, Resolved, RouteChange, RouteState
from compute_worker.runtime.files import write_whole
from lorry.errors import LorryError, StorageUnavailable
from lorry.format.reference import check_name, parse_reference

_log = logging.getLogger(__name__)

_History = tuple[RouteState, ...]


class RouteBook:
    """Routes in a folder. base_id: of the base that this worker serves."""

    def __init__(self, folder: Path, base_id: str) -> None:
        self._folder = folder
        self._base_id = base_id

    def write(self, history: Sequence[RouteState]) -> None:
        """Put the revisions of a route, one at least, in the place of those before. Raises StorageUnavailable."""
        said = {"base_id": self._base_id, "history": [_written(state) for state in history]}
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _unavailable(error) from error
        write_whole(self._file(history[0].name), json.dumps(said).encode())

    def remove(self, name: str) -> None:
        """Have a route no more. Raises StorageUnavailable."""
        try:
            self._file(name).unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable(error) from error

    def read(self) -> list[_History]:
        """The revisions of every route, oldest first, as they were written last."""
        return [history for path in sorted(self._folder.glob("*.json")) if (history := self._read(path))]

    def _read(self, path: Path) -> _History:
        try:
            said = json.loads(path.read_bytes())
            name = check_name(path.stem, "route")
            return tuple(_state(name, s) for s in said["history"]) if said["base_id"] == self._base_id else ()
        except (OSError, ValueError, TypeError, KeyError, LorryError) as error:
            _log.warning("the route in %s cannot be read, and is gone: %s", path, error)
            return ()

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"  # a route's name is letters, digits and -_. between two of these


def _written(state: RouteState) -> dict[str, Any]:
    return {
        "revision": state.revision,
        "updated": state.updated.isoformat(),
        "change": state.change,
        "principal": state.principal,
        "branches": [
            {
                "name": branch.name,
                "share": branch.share,
                "adapters": [{"adapter": a.adapter, "digest": a.digest, "weight": a.weight} for a in branch.adapters],
            }
            for branch in state.branches
        ],
    }


def _state(name: str, said: dict[str, Any]) -> RouteState:
    return RouteState(
        name=name,
        revision=int(said["revision"]),
        branches=tuple(_branch(branch) for branch in said["branches"]),
        updated=datetime.fromisoformat(said["updated"]),
        change=RouteChange(said["change"]),
        principal=str(said["principal"]),
    )


def _branch(said: dict[str, Any]) -> Branch:
    adapters = tuple(Resolved(str(a["adapter"]), str(a["digest"]), float(a["weight"])) for a in said["adapters"])
    for adapter in adapters:
        parse_reference(adapter.adapter)
    return Branch(check_name(said["name"], "branch"), float(said["share"]), adapters)


def _unavailable(error: OSError) -> StorageUnavailable:
    return StorageUnavailable(f"the worker's cache folder failed: {error.strerror or error}")
