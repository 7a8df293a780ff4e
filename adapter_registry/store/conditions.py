"""Terms of a filter as SQL.

Owns what each field is looked up in: the row of the adapter, its newest version that is not yanked,
its labels, the names of bases. A comparison with a fact that is missing does not hold, but for a
label: an adapter without the label does not have the value. Does not know the filter's grammar.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import InstrumentedAttribute

from adapter_registry.domain.filters import Term
from adapter_registry.store.models import AdapterRow, BaseRow, KnownAsRow, LabelRow, VersionRow

_COMPARE: dict[str, Callable[[InstrumentedAttribute[int], int], ColumnElement[bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def condition(term: Term) -> ColumnElement[bool]:
    """Condition on AdapterRow joined with VersionRow, its newest version."""
    if term.field == "rank":
        return _COMPARE[term.operator](VersionRow.rank, int(term.value))
    if term.field == "size":
        return _COMPARE[term.operator](VersionRow.size, int(term.value))
    holds = _EQUAL[term.field](term)
    return ~holds if term.operator == "!=" else holds


def _name(term: Term) -> ColumnElement[bool]:
    if not term.value.endswith("*"):
        return AdapterRow.name == term.value
    # Names are ASCII without DEL, so this range is the prefix, and an index can walk it.
    prefix = term.value[:-1]
    return AdapterRow.name.between(prefix, f"{prefix}\x7f")


def _variant(term: Term) -> ColumnElement[bool]:
    return VersionRow.variant == term.value


def _base(term: Term) -> ColumnElement[bool]:
    named = select(BaseRow.base_id).where((BaseRow.name == term.value) | (BaseRow.base_id == term.value))
    known = select(BaseRow.base_id).join(KnownAsRow, KnownAsRow.base == BaseRow.id).where(KnownAsRow.name == term.value)
    return VersionRow.base_id.in_(named) | VersionRow.base_id.in_(known)


def _label(term: Term) -> ColumnElement[bool]:
    return exists().where(LabelRow.adapter == AdapterRow.id, LabelRow.key == term.key, LabelRow.value == term.value)


_EQUAL: dict[str, Callable[[Term], ColumnElement[bool]]] = {
    "name": _name,
    "variant": _variant,
    "base": _base,
    "labels": _label,
}
