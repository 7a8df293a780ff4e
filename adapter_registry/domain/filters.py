"""Placeholder shape; see module docstring of the finished file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison of a filter: `field operator value`; for labels, `key` is the label's key."""

    field: str
    operator: str
    value: str
    key: str = ""
