"""Terms of a filter as SQL.

Owns what each field is looked up in: the row of the adapter, a version (of an adapter, its newest
that is not yanked), its modules, parents and verdicts, labels, aliases, the names of bases. A
comparison with a fact that is missing does not hold, but for labels and aliases: an adapter without
the label does not have the value. Does not know the filter's grammar.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Exists, Select, exists, select
from sqlalchemy.orm import InstrumentedAttribute

from adapter_registry.domain.filters import Term, interval
from adapter_registry.store.keeping import VerdictRow, VersionModuleRow
from adapter_registry.store.models import AdapterRow, AliasRow, BaseRow, KnownAsRow, LabelRow, LineageRow, VersionRow

_COMPARE: dict[str, Callable[[InstrumentedAttribute[Any], Any], ColumnElement[bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def adapter_condition(term: Term) -> ColumnElement[bool]:
    """Condition on AdapterRow joined with VersionRow, its newest version, which may be missing."""
    return _condition(term, AliasRow.adapter == AdapterRow.id)


def version_condition(term: Term) -> ColumnElement[bool]:
    """Condition on VersionRow, for a term of VERSION_FIELDS."""
    return _condition(term, AliasRow.version == VersionRow.id)


def _condition(term: Term, own_alias: ColumnElement[bool]) -> ColumnElement[bool]:
    if term.field in _ORDERED:
        return _ORDERED[term.field](term)
    own = exists().where(own_alias, AliasRow.alias == term.value)
    holds = own if term.field == "alias" else _EQUAL[term.field](term)
    if term.operator == "=":
        return holds
    return ~holds & _FACT[term.field](term) if term.field in _FACT else ~holds


def _number(column: InstrumentedAttribute[int]) -> Callable[[Term], ColumnElement[bool]]:
    return lambda term: _COMPARE[term.operator](column, int(term.value))


def _created(term: Term) -> ColumnElement[bool]:
    start, end = interval(term.value)
    within = (VersionRow.created >= start) & (VersionRow.created < end)
    match term.operator:
        case "=":
            return within
        case "!=":
            return ~within
        case "<=" | ">":
            return VersionRow.created < end if term.operator == "<=" else VersionRow.created >= end
        case _:
            return _COMPARE[term.operator](VersionRow.created, start)


def _name(term: Term) -> ColumnElement[bool]:
    if not term.value.endswith("*"):
        return AdapterRow.name == term.value
    # Names are ASCII without DEL, so this range is the prefix, and an index can walk it.
    prefix = term.value[:-1]
    return AdapterRow.name.between(prefix, f"{prefix}\x7f")


def _variant(term: Term) -> ColumnElement[bool]:
    return VersionRow.variant == term.value


def _base(term: Term) -> ColumnElement[bool]:
    return VersionRow.base_id.in_(_named(BaseRow.base_id, term)) | VersionRow.base_id.in_(_known(BaseRow.base_id, term))


def _named(column: InstrumentedAttribute[Any], term: Term) -> Select[Any]:
    return select(column).where((BaseRow.name == term.value) | (BaseRow.base_id == term.value))


def _known(column: InstrumentedAttribute[Any], term: Term) -> Select[Any]:
    return select(column).join(KnownAsRow, KnownAsRow.base == BaseRow.id).where(KnownAsRow.name == term.value)


def _judged(term: Term) -> Exists:
    """There is a verdict on the base as it is: it may not be computed yet."""
    base = BaseRow.id.in_(_named(BaseRow.id, term)) | BaseRow.id.in_(_known(BaseRow.id, term))
    current = (BaseRow.id == VerdictRow.base) & (BaseRow.revision == VerdictRow.revision)
    return exists().where(VerdictRow.version == VersionRow.id, current, base)


def _fits(term: Term) -> ColumnElement[bool]:
    return _judged(term).where(VerdictRow.compatible)


def _module(term: Term) -> ColumnElement[bool]:
    return exists().where(VersionModuleRow.version == VersionRow.id, VersionModuleRow.module == term.value)


def _parent(term: Term) -> ColumnElement[bool]:
    return exists().where(LineageRow.child == VersionRow.id, LineageRow.parent == term.value)


def _label(term: Term) -> ColumnElement[bool]:
    return exists().where(LabelRow.adapter == AdapterRow.id, LabelRow.key == term.key, LabelRow.value == term.value)


def _there(_term: Term) -> ColumnElement[bool]:
    return VersionRow.id.is_not(None)


_ORDERED: dict[str, Callable[[Term], ColumnElement[bool]]] = {
    "rank": _number(VersionRow.rank),
    "size": _number(VersionRow.size),
    "created": _created,
}
_EQUAL: dict[str, Callable[[Term], ColumnElement[bool]]] = {
    "name": _name,
    "variant": _variant,
    "base": _base,
    "fits": _fits,
    "module": _module,
    "parent": _parent,
    "labels": _label,
}
# What must be there for != to hold: SQL says it by itself of columns, not of rows of other tables.
_FACT: dict[str, Callable[[Term], ColumnElement[bool]]] = {"fits": _judged, "module": _there, "parent": _there}
