"""Replacing a function of the registry by its dotted place, from outside: production code knows nothing of it.

Knows how a place is found and put back, and that a coroutine stays one. Does not know what is put there.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# Makes the replacement out of what it replaces.
Make = Callable[[Callable[..., Any]], Callable[..., Any]]


def replace(place: str, make: Make) -> Callable[[], None]:
    """Replace the function at `package.module:name` or `package.module:Class.name`; answers what undoes it."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    inherited = name not in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, make(original))

    def undo() -> None:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, original)

    return undo
