"""The routes on disk: a small file each, so that a restarted worker has them again.

Owns the files' form: a line with the revisions of a route that are kept, and one for each that came later,
until the file is replaced as a whole. What cannot be read, or was written for another base, is as good as
not there. Does not know what a route is for, nor how its adapters come back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime
from os import SEEK_END
from pathlib import Path
from typing import Any

from compute_worker.runtime.api import Branch, Resolved, RouteChange, RouteState
from compute_worker.runtime.files import write_whole
from compute_worker.runtime.rights import Homes
from compute_worker.runtime.route import KEPT
from compute_worker.runtime.version import COMBINED
from lorry.errors import LorryError, StorageUnavailable
from lorry.format.reference import check_name, parse_reference

_log = logging.getLogger(__name__)

_History = tuple[RouteState, ...]


class RouteBook:
    """Routes in a folder. base_id: of the base that this worker serves."""

    def __init__(self, folder: Path, base_id: str) -> None:
        self._folder = folder
        self._base_id = base_id
        # Of the files that were written since the start: the last revision, and how many lines are behind the first.
        self._ends: dict[str, tuple[RouteState, int]] = {}

    def write(self, history: Sequence[RouteState]) -> None:
        """Keep the revisions of a route, one at least, oldest first. Raises StorageUnavailable."""
        last, before = history[-1], history[-2:-1]
        # Forgotten first: a file that could not be written ends with nobody knows what.
        end, lines = self._ends.pop(last.name, (None, 0))
        if before != (end,) or lines == KEPT or not self._add(last):
            self._replace(history)
            lines = -1
        self._ends[last.name] = last, lines + 1

    def _add(self, state: RouteState) -> bool:
        """One more line; False where the file is not there any more."""
        try:
            with self._file(state.name).open("r+b") as file:
                file.seek(0, SEEK_END)
                file.write(b"\n" + json.dumps(_written(state)).encode())
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unavailable(error) from error
        return True

    def _replace(self, history: Sequence[RouteState]) -> None:
        said = {"base_id": self._base_id, "history": [_written(state) for state in history]}
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _unavailable(error) from error
        write_whole(self._file(history[0].name), json.dumps(said).encode())

    def remove(self, name: str) -> None:
        """Have a route no more. Raises StorageUnavailable."""
        try:
            self._ends.pop(name, None)
            self._file(name).unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable(error) from error

    def read(self) -> list[_History]:
        """The revisions of every route, oldest first, as they were written last."""
        return [history for path in sorted(self._folder.glob("*.json")) if (history := self._read(path))]

    def _read(self, path: Path) -> _History:
        history: _History = ()
        try:
            first, *later = path.read_bytes().splitlines() or [b""]
            said, name = json.loads(first), check_name(path.stem, "route")
            if said["base_id"] == self._base_id:
                history = tuple(_state(name, state) for state in said["history"])
                for line in later:
                    history += (_state(name, json.loads(line)),)
        except (OSError, ValueError, TypeError, KeyError, LorryError) as error:
            _log.warning("of the route in %s no more than %d revisions can be read: %s", path, len(history), error)
        return history[-KEPT:]

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"  # a route's name is letters, digits and -_. between two of these


def _written(state: RouteState) -> dict[str, Any]:
    return {
        "revision": state.revision,
        "updated": state.updated.isoformat(),
        "change": state.change,
        "principal": state.principal,
        "boundless": state.boundless,
        "homes": [sorted(group) for group in state.homes],
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
    branches = tuple(_branch(branch) for branch in said["branches"])
    return RouteState(
        name=name,
        revision=int(said["revision"]),
        branches=branches,
        updated=datetime.fromisoformat(said["updated"]),
        change=RouteChange(said["change"]),
        principal=str(said["principal"]),
        homes=_homes(said["homes"]) if "homes" in said else _homes_of(branches),
        boundless=bool(said.get("boundless", True)),
    )


def _homes(said: list[list[str]]) -> Homes:
    return tuple(frozenset(map(str, group)) for group in said)


def _homes_of(branches: Sequence[Branch]) -> Homes:
    """Of a route that was written before they were kept. Whose a combination was, nobody knows: it is nobody's."""
    names = [parse_reference(adapter.adapter).adapter for branch in branches for adapter in branch.adapters]
    return tuple(frozenset() if name == COMBINED else frozenset({name.namespace}) for name in names)


def _branch(said: dict[str, Any]) -> Branch:
    adapters = tuple(Resolved(str(a["adapter"]), str(a["digest"]), float(a["weight"])) for a in said["adapters"])
    for adapter in adapters:
        parse_reference(adapter.adapter)
    return Branch(check_name(said["name"], "branch"), float(said["share"]), adapters)


def _unavailable(error: OSError) -> StorageUnavailable:
    return StorageUnavailable(f"the worker's cache folder failed: {error.strerror or error}")
