"""Whose signature an adapter needs before this worker loads it: checked here, offline.

Owns the file of trusted keys and the check of a version's signatures against it, so that not even
the registry can make this worker load what nobody trusted signed. Does not know where signatures
come from, or what happens to a version afterwards.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from lorry.errors import InvalidInput, SignatureRequired
from lorry.format.digest import digest_of
from lorry.format.manifest import canonical_json
from lorry.format.reference import AdapterName, check_name
from lorry.signing import PublicKey, public_key, signers

# In the place of a namespace: those that are not named; in the place of keys: none is needed.
_OTHERS = "*"
_UNSIGNED = "unsigned"

# Keys by namespace; None: what is not signed is accepted too.
Trusted: TypeAlias = Mapping[str, tuple[PublicKey, ...] | None]


class SignaturePolicy:
    """Which keys count in which namespace. A namespace that is not named has the keys of `*`, or none."""

    def __init__(self, trusted: Trusted) -> None:
        self._trusted = trusted

    @property
    def mark(self) -> str:
        """Names the policy: empty where everything is accepted, else equal for equal policies alone."""
        if self._trusted == {_OTHERS: None}:
            return ""
        rules = {name: None if keys is None else sorted(key.id for key in keys) for name, keys in self._trusted.items()}
        return digest_of(canonical_json(rules).encode()).removeprefix("sha256:")[:16]

    def check(self, adapter: AdapterName, digest: str, signatures: Iterable[bytes]) -> None:
        """Raise SignatureRequired unless a trusted key signed the manifest as a version of this adapter."""
        keys = self._trusted.get(adapter.namespace, self._trusted.get(_OTHERS, ()))
        if keys is None or signers(signatures, digest, adapter, keys):
            return
        names = ", ".join(key.id for key in keys) or "none is trusted"
        raise SignatureRequired(
            f"{adapter}@{digest}: this worker loads from namespace {adapter.namespace!r} only what one of its trusted "
            f"keys signed ({names})"
        )


ANYTHING = SignaturePolicy({_OTHERS: None})


def read_policy(path: Path | None) -> SignaturePolicy:
    """The policy of a TOML file; everything is accepted where there is none.

    Each line is a namespace, or "*" for those that are not named, with a list of PEM files of public
    keys beside the TOML file, or with "unsigned". Raises InvalidInput.
    """
    if path is None:
        return ANYTHING
    try:
        lines = tomllib.loads(path.read_text(encoding="utf-8"))
        return SignaturePolicy({_namespace(name): _keys(name, value, path.parent) for name, value in lines.items()})
    except (OSError, ValueError) as error:
        raise InvalidInput(f"trusted keys, {path}: {error}") from error


def _namespace(name: str) -> str:
    return name if name == _OTHERS else check_name(name, "trusted keys: namespace")


def _keys(name: str, value: object, folder: Path) -> tuple[PublicKey, ...] | None:
    if value == _UNSIGNED:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) for entry in value):
        raise InvalidInput(f"trusted keys, {name!r}: expected a list of PEM files, or {_UNSIGNED!r}, got {value!r}")
    return tuple(public_key((folder / entry).read_bytes()) for entry in value)
