"""The audit log in the store: who did what to which digest, in the transaction that did it.

Owns how an entry is written. Does not know what is worth an entry: every event of the outbox is one,
other writers call `note`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import insert
from sqlalchemy.orm import Session

from adapter_registry.domain.acting import actor
from adapter_registry.store.keeping import AuditRow


def note(session: Session, *, namespace: str = "", name: str = "", digest: str = "", detail: str = "") -> None:
    """Write what the acting principal does."""
    note_each(session, [digest], namespace=namespace, name=name, detail=detail)


def note_each(
    session: Session, digests: Sequence[str], *, namespace: str = "", name: str = "", detail: str = ""
) -> None:
    """Write it once for each digest, in one go."""
    who = actor()
    common = {
        "time": datetime.now(UTC),
        "principal": who.principal,
        "via": who.via,
        "action": who.action,
        "namespace": namespace,
        "name": name,
        "detail": detail,
        "request_id": who.request_id,
    }
    if digests:
        session.execute(insert(AuditRow), [{**common, "digest": digest} for digest in digests])
