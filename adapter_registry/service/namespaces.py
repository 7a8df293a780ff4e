"""What may be written about a namespace: limits that are numbers, keys that are keys.

Owns the check of a change before it is written. Does not know the wire, SQL, or who may make it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from adapter_registry.domain.namespaces import NamespaceChange
from lorry.errors import InvalidInput

# What admin.proto promises. Each is tried on each publication.
MAX_KEYS = 16


def check_change(change: NamespaceChange) -> NamespaceChange:
    """The change, its keys in PEM's one usual form, each once. Raises InvalidInput."""
    for name, limit in (("max_bytes", change.max_bytes), ("max_versions", change.max_versions)):
        if limit is not None and limit < 0:
            raise InvalidInput(f"{name}: expected a limit, or 0 for none, got {limit}")
    if change.trusted_keys is None:
        return change
    return replace(change, trusted_keys=_keys(change.trusted_keys))


def _keys(texts: Iterable[str]) -> tuple[str, ...]:
    # The one part of the catalogue's rules that needs the library of keys.
    from lorry.signing import public_key

    keys = tuple(dict.fromkeys(public_key(text.encode()).pem.decode() for text in texts))
    if len(keys) > MAX_KEYS:
        raise InvalidInput(f"trusted_keys: expected at most {MAX_KEYS}, got {len(keys)}")
    return keys
