"""Crash points: named steps of the registry, just before or behind which it kills itself when told to.

Knows which function is which step. A point is armed by writing its name into a file that the process
looks into at each step, so that one process can be prepared in peace and killed at the step that is
wanted. Does not know what a test expects afterwards.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.patching import replace


class Point(NamedTuple):
    """A step, and whether the end comes behind it or before it."""

    place: str
    behind: bool


_CATALOG = "adapter_registry.store.catalog:SqlCatalog"
_VERSIONS = "adapter_registry.store.versions"
_STORED = "adapter_registry.service.stored:StoredBlobs"
_S3 = "adapter_registry.blobs.s3:S3Store"
_MARKER = "adapter_registry.blobs.s3_places:Marker"

# Of an upload into a folder: what leads to the row.
FILE_UPLOAD = {
    "upload.written": Point("adapter_registry.blobs.file_upload:FileUpload.finish", behind=False),
    "upload.renamed": Point("adapter_registry.blobs.file_upload:sync_folder", behind=False),
}
# Of an upload into S3, of one object and of parts.
S3_UPLOAD = {
    "upload.held": Point("adapter_registry.blobs.intake:HeldUpload.finish", behind=False),
    "upload.put": Point(f"{_S3}._put", behind=True),
    "upload.parts-sent": Point("adapter_registry.blobs.s3_upload:PartsUpload.finish", behind=False),
    "upload.announced": Point(f"{_MARKER}.__init__", behind=True),
    "upload.completed": Point("adapter_registry.blobs.s3_parts:PartSender.complete", behind=True),
    "upload.named": Point(f"{_MARKER}.make", behind=True),
}
UPLOAD = {
    "upload.verified": Point("adapter_registry.blobs.intake:Intake.verify", behind=True),
    "upload.before-row": Point(f"{_CATALOG}.record", behind=False),
    "upload.behind-row": Point(f"{_CATALOG}.record", behind=True),
    "upload.before-answer": Point(f"{_STORED}.receive", behind=True),
}
PUBLISH = {
    "publish.inspected": Point("adapter_registry.service.publish:inspect", behind=True),
    "publish.in-transaction": Point(f"{_VERSIONS}:_publish", behind=True),
    "publish.alias-in-transaction": Point(f"{_VERSIONS}:point", behind=True),
    "publish.committed": Point(f"{_CATALOG}.create_version", behind=True),
}
ALIAS = {
    # Passed by a publication under an alias too.
    "alias.in-transaction": Point("adapter_registry.store.aliases:_move", behind=True),
    "alias.committed": Point(f"{_CATALOG}.set_alias", behind=True),
}
DELETE = {
    "delete.in-transaction": Point("adapter_registry.store.deletions:remove_batch", behind=True),
    "delete.between-batches": Point("adapter_registry.store.deletions:take_apart", behind=False),
    "delete.committed": Point(f"{_CATALOG}.delete_adapter", behind=True),
}
COLLECT = {
    "gc.condemned": Point(f"{_CATALOG}.condemn", behind=True),
    "gc.bytes-deleted": Point(f"{_CATALOG}.remove", behind=False),
    "gc.row-removed": Point(f"{_CATALOG}.remove", behind=True),
}
POINTS = FILE_UPLOAD | S3_UPLOAD | UPLOAD | PUBLISH | ALIAS | DELETE | COLLECT


def install(armed: Path) -> None:
    """From now on this process dies at the point whose name the file holds; the file goes with it."""
    for name, point in POINTS.items():
        replace(point.place, partial(_crashing, partial(_step, name, armed), behind=point.behind))


def _step(name: str, armed: Path) -> None:
    if armed.exists() and armed.read_text() == name:
        armed.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _crashing(step: Callable[[], None], original: Callable[..., Any], *, behind: bool) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(original):

        @wraps(original)
        async def waiting(*args: object, **kwargs: object) -> object:
            if not behind:
                step()
            answer = await original(*args, **kwargs)
            if behind:
                step()
            return answer

        return waiting

    @wraps(original)
    def calling(*args: object, **kwargs: object) -> object:
        if not behind:
            step()
        answer = original(*args, **kwargs)
        if behind:
            step()
        return answer

    return calling
