"""How people and programs write down which adapter they mean.

Owns the one name pattern and the reference grammar `[namespace/]name[@number|:alias|@sha256:hex]`.
Does not know whether what is named exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorry.errors import InvalidName, InvalidReference
from lorry.format.digest import is_digest

DEFAULT_NAMESPACE = "default"

# Lower case, so that names are equal on every file system and database collation; 63 as in DNS.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
# Two names, a digest and the separators: 63 + 1 + 63 + 1 + 71.
_MAX_LENGTH = 199
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True, order=True)
class AdapterName:
    """An adapter without a version."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return self.name if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """An adapter and at most one of number, alias, digest; none means the newest version."""

    adapter: AdapterName
    number: int | None = None
    alias: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.adapter}@{self.number}"
        if self.alias is not None:
            return f"{self.adapter}:{self.alias}"
        return f"{self.adapter}@{self.digest}" if self.digest else str(self.adapter)


def check_name(text: str, what: str = "name") -> str:
    """The text, where it is a name. Raises InvalidName."""
    if not _NAME.fullmatch(text):
        raise InvalidName(
            f"{what}: expected 1 to 63 of a-z, 0-9, '.', '_', '-', a letter or digit at both ends, got {text[:80]!r}"
        )
    return text


def parse_adapter_name(text: str) -> AdapterName:
    """`name` or `namespace/name`. Raises InvalidReference, InvalidName."""
    reference = parse_reference(text)
    if reference != Reference(reference.adapter):
        raise InvalidReference(f"expected an adapter without a version, got {text[:200]!r}")
    return reference.adapter


def parse_reference(text: str) -> Reference:
    """Take a reference apart. Raises InvalidReference, InvalidName."""
    if len(text) > _MAX_LENGTH:
        raise InvalidReference(f"a reference has at most {_MAX_LENGTH} characters, got {len(text)}")
    path, at, version = text.partition("@")
    if at:
        return _with_version(_adapter(path), version, text)
    path, colon, alias = path.partition(":")
    if colon:
        return Reference(_adapter(path), alias=check_name(alias, "alias"))
    return Reference(_adapter(path))


def _adapter(path: str) -> AdapterName:
    namespace, slash, name = path.rpartition("/")
    return AdapterName(
        check_name(namespace, "namespace") if slash else DEFAULT_NAMESPACE, check_name(name, "adapter name")
    )


def _with_version(adapter: AdapterName, version: str, text: str) -> Reference:
    if _NUMBER.fullmatch(version):
        return Reference(adapter, number=int(version))
    if is_digest(version):
        return Reference(adapter, digest=version)
    raise InvalidReference(f"behind '@' expected a number or sha256:<64 hex digits>, got {text!r}")
