"""Base models in the store.

Owns how a base is known (one name, one fingerprint, any number of further names) and whose variant it
is. Does not know adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from adapter_registry.domain.families import Families, Kin
from adapter_registry.domain.paging import Cursor, page_size
from adapter_registry.domain.records import MAX_KNOWN_AS, BaseRecord, EventKind, Listing, Page
from adapter_registry.store.database import Database
from adapter_registry.store.events import tell
from adapter_registry.store.models import BaseRow, KnownAsRow
from lorry.errors import BaseConflict, BaseNotFound, Exhausted
from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.compatibility import CarryOver

_PAGES = Cursor("bases", "", (str,))


class Bases:
    """The part of the catalogue that keeps base models; see Catalog."""

    _database: Database

    def add_base(self, base: BaseRecord) -> tuple[BaseRecord, bool]:
        """See Catalog. A known base under another name keeps its name; the other is added to known_as."""
        with self._database.write() as session:
            _refuse_taken_name(session, base)
            row = session.scalar(select(BaseRow).where(BaseRow.base_id == base.facts.base_id))
            created = row is None
            if row is None:
                known = families(session)
                known.check_parent(base.facts.base_id, base.derived_from)
                row = _new_row(base)
                session.add(row)
                _renew(session, known.descendants(base.facts.base_id))
                tell(session, EventKind.BASE_REGISTERED, None, base.facts.base_id)
            elif base_facts(row) != base.facts:
                _learn_experts(session, row, base.facts)
            if _add_names(session, row, {base.name, *base.known_as}) and not created:
                tell(session, EventKind.BASE_UPDATED, None, row.base_id)
            return _records(session, [row])[0], created

    def get_base(self, name: str) -> BaseRecord:
        """See Catalog."""
        with self._database.read() as session:
            return _records(session, [_found(session, name)])[0]

    def update_base(self, name: str, *, derived_from: str | None, carry_over: CarryOver | None) -> BaseRecord:
        """See Catalog."""
        with self._database.write() as session:
            row = _found(session, name)
            parent = row.derived_from if derived_from is None else derived_from or None
            policy = row.carry_over if carry_over is None else carry_over.value
            known = families(session)
            known.check_parent(row.base_id, parent)
            if (parent, policy) != (row.derived_from, row.carry_over):
                below = known.descendants(row.base_id) if parent != row.derived_from else []
                row.derived_from, row.carry_over = parent, policy
                session.flush()
                _renew(session, [row.base_id, *below])
                tell(session, EventKind.BASE_UPDATED, None, row.base_id)
            return _records(session, [row])[0]

    def list_bases(self, page: Page) -> Listing[BaseRecord]:
        """See Catalog."""
        query = select(BaseRow).order_by(BaseRow.name).limit(page_size(page.size) + 1)
        if behind := _PAGES.position(page):
            query = query.where(BaseRow.name > behind[0])
        with self._database.read() as session:
            rows = session.scalars(query).all()
            return _PAGES.listing(rows, page, lambda row: (row.name,), _records(session, rows[: page_size(page.size)]))


def families(session: Session) -> Families:
    """All bases, without their module tables."""
    columns = (BaseRow.base_id, BaseRow.name, BaseRow.derived_from, BaseRow.carry_over, BaseRow.revision)
    rows = session.execute(select(*columns))
    return Families(Kin(base, name, parent, CarryOver(policy), count) for base, name, parent, policy, count in rows)


def _found(session: Session, name: str) -> BaseRow:
    """By name, base_id or known_as name. Raises BaseNotFound."""
    row = session.scalar(select(BaseRow).where(BaseRow.name == name))
    row = row or session.scalar(select(BaseRow).where(BaseRow.base_id == name))
    row = row or session.scalar(
        select(BaseRow)
        .join(KnownAsRow, KnownAsRow.base == BaseRow.id)
        .where(KnownAsRow.name == name)
        .order_by(BaseRow.id)
        .limit(1)
    )
    if row is None:
        raise BaseNotFound(f"no base model {name[:200]!r}; `lorry base register` makes one known")
    return row


def _renew(session: Session, base_ids: Sequence[str]) -> None:
    """Verdicts on these bases are to be found again."""
    changed = update(BaseRow).where(BaseRow.base_id.in_(base_ids)).values(revision=BaseRow.revision + 1)
    session.execute(changed, execution_options={"synchronize_session": False})


def _refuse_taken_name(session: Session, base: BaseRecord) -> None:
    """A name of another base, even a known_as one: adapters that carry it would change their base."""
    others = select(BaseRow.base_id).outerjoin(KnownAsRow, KnownAsRow.base == BaseRow.id)
    taken = (BaseRow.name == base.name) | (KnownAsRow.name == base.name)
    owner = session.scalar(others.where(taken, BaseRow.base_id != base.facts.base_id).limit(1))
    if owner is not None:
        raise BaseConflict(f"the name {base.name!r} belongs to base {owner}, not to {base.facts.base_id}")


def _learn_experts(session: Session, row: BaseRow, facts: BaseFacts) -> None:
    """Take the experts of a base that was registered without. Raises BaseConflict where the shape is another.

    Module tables had none once: they are no part of a base's identity, and who still leaves them out says nothing.
    """
    stored = base_facts(row)
    plain = _without_experts(stored)
    if plain != _without_experts(facts) or plain not in (stored, facts):
        raise BaseConflict(f"{facts.base_id} is registered as {row.name!r} with another shape")
    if stored == plain:
        row.modules = _table(facts)
        session.flush()
        _renew(session, [row.base_id])
        tell(session, EventKind.BASE_UPDATED, None, row.base_id)


def _without_experts(facts: BaseFacts) -> BaseFacts:
    return replace(facts, modules=tuple(module for module in facts.modules if module.kind is not ModuleKind.EXPERTS))


def _new_row(base: BaseRecord) -> BaseRow:
    facts = base.facts
    return BaseRow(
        base_id=facts.base_id,
        name=base.name,
        architecture_id=facts.architecture_id,
        model_type=facts.model_type,
        vocab_size=facts.vocab_size,
        quantization=facts.quantization,
        derived_from=base.derived_from,
        modules=_table(facts),
        created=datetime.now(UTC),
        carry_over=base.carry_over.value,
        revision=1,
    )


def _table(facts: BaseFacts) -> list[list[object]]:
    stacked = ([module.experts] if module.experts else [] for module in facts.modules)
    return [
        [module.name, module.kind.value, module.in_features, module.out_features, *experts]
        for module, experts in zip(facts.modules, stacked, strict=True)
    ]


def _add_names(session: Session, row: BaseRow, names: set[str]) -> bool:
    """Whether there were new ones. Raises Exhausted."""
    known = set(session.scalars(select(KnownAsRow.name).where(KnownAsRow.base == row.id)))
    new = sorted(names - known - {row.name})
    if new and len(known) + len(new) > MAX_KNOWN_AS:
        raise Exhausted(
            f"base {row.name!r}: expected at most {MAX_KNOWN_AS} further names, it has {len(known)} and {len(new)} "
            f"more came, {new[0]!r} among them"
        )
    session.add_all(KnownAsRow(base=row.id, name=name) for name in new)
    session.flush()
    return bool(new)


def base_facts(row: BaseRow) -> BaseFacts:
    """Identity and shape of a stored base."""
    return BaseFacts(
        base_id=row.base_id,
        architecture_id=row.architecture_id,
        model_type=row.model_type,
        vocab_size=row.vocab_size,
        modules=tuple(BaseModule(name, ModuleKind(kind), *sizes) for name, kind, *sizes in row.modules),
        quantization=row.quantization,
    )


def _records(session: Session, rows: Sequence[BaseRow]) -> list[BaseRecord]:
    query = select(KnownAsRow).where(KnownAsRow.base.in_([row.id for row in rows])).order_by(KnownAsRow.name)
    names: dict[int, list[str]] = {row.id: [] for row in rows}
    for known in session.scalars(query):
        names[known.base].append(known.name)
    return [_record(row, names[row.id]) for row in rows]


def _record(row: BaseRow, known_as: Sequence[str]) -> BaseRecord:
    return BaseRecord(
        row.name, base_facts(row), tuple(known_as), row.derived_from, row.created, CarryOver(row.carry_over)
    )
