"""The registry as a person would explain it: dicts, and what a reference means in them.

Owns what there is to know, and the events that were told. Errors are raised without words: only their
class counts. Knows no SQL, no files and no wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lorry.errors import AdapterNotFound, AliasNotFound, BaseNotFound, VersionNotFound
from lorry.format.manifest import Manifest
from lorry.format.reference import Reference

Key = tuple[str, str]


@dataclass
class Base:
    """A base and its family."""

    base_id: str
    name: str
    known_as: set[str]
    derived_from: str
    carry_over: str

    def called(self, name: str) -> bool:
        return name in {self.name, self.base_id, *self.known_as}


@dataclass
class Version:
    """A version under one adapter. warnings: codes."""

    number: int
    manifest: Manifest
    warnings: tuple[str, ...]
    yank_reason: str | None = None

    def __post_init__(self) -> None:
        self.digest = self.manifest.digest


@dataclass
class Adapter:
    """An adapter, alive or deleted: its numbers and the history of its aliases outlive it."""

    key: Key
    alive: bool = False
    revision: int = 0
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    keep_last: int = 0
    last_number: int = 0
    versions: dict[int, Version] = field(default_factory=dict)
    # Alias to the number that it points to.
    aliases: dict[str, int] = field(default_factory=dict)
    # Alias to its moves, (digest or "", number); the revision is the place, from 1 up.
    moves: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def latest(self) -> Version | None:
        return max((v for v in self.versions.values() if v.yank_reason is None), key=lambda v: v.number, default=None)

    def revision_of(self, alias: str) -> int:
        return len(self.moves[alias]) if alias in self.aliases else 0

    def names_of(self, number: int) -> tuple[str, ...]:
        return tuple(sorted(alias for alias, target in self.aliases.items() if target == number))


@dataclass
class Space:
    """A namespace: limits, the blobs that it claims, and the bytes of unfinished uploads that count."""

    max_bytes: int = 0
    max_versions: int = 0
    revision: int = 0
    claims: set[str] = field(default_factory=set)
    uploading: dict[str, int] = field(default_factory=dict)


class State:
    """All of it. Blobs are digest to bytes; uploads (namespace, digest) to the bytes that are kept."""

    def __init__(self) -> None:
        self.bases: dict[str, Base] = {}
        self.adapters: dict[Key, Adapter] = {}
        self.spaces: dict[str, Space] = {}
        self.blobs: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.uploads: dict[tuple[str, str], bytes] = {}
        # Holder to (adapter, number).
        self.leases: dict[str, set[tuple[Key, int]]] = {}
        self.events: list[tuple[Any, ...]] = []
        # Digests of all versions that there ever were, in order of their first coming.
        self.known: list[str] = []

    def space(self, name: str) -> Space:
        return self.spaces.setdefault(name, Space())

    def alive(self) -> list[Adapter]:
        return [self.adapters[key] for key in sorted(self.adapters) if self.adapters[key].alive]

    def everything(self) -> list[tuple[Adapter, Version]]:
        """Every visible version."""
        return [(adapter, version) for adapter in self.alive() for version in adapter.versions.values()]

    def twins(self, digest: str) -> list[tuple[Adapter, Version]]:
        """Where a digest is published."""
        return [(adapter, version) for adapter, version in self.everything() if version.digest == digest]

    def adapter(self, key: Key) -> Adapter:
        adapter = self.adapters.get(key)
        if adapter is None or not adapter.alive:
            raise AdapterNotFound("")
        return adapter

    def locate(self, reference: Reference) -> tuple[Adapter, Version]:
        """What a reference names, yanked or not."""
        adapter = self.adapter((reference.adapter.namespace, reference.adapter.name))
        if reference.alias is not None:
            if reference.alias not in adapter.aliases:
                raise AliasNotFound("")
            return adapter, adapter.versions[adapter.aliases[reference.alias]]
        if reference.number is not None:
            found = adapter.versions.get(reference.number)
        elif reference.digest is not None:
            found = next((v for v in adapter.versions.values() if v.digest == reference.digest), None)
        else:
            found = adapter.latest()
        if found is None:
            raise VersionNotFound("")
        return adapter, found

    def base(self, name: str) -> Base:
        """By name, then id, then further name."""
        order = (lambda b: b.name == name, lambda b: b.base_id == name, lambda b: name in b.known_as)
        for fits in order:
            for base in self.bases.values():
                if fits(base):
                    return base
        raise BaseNotFound("")

    def tell(self, kind: str, adapter: Adapter | None, *what: object) -> None:
        self.events.append((kind, *(adapter.key if adapter else ("", "")), *what))
