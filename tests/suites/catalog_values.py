"""The smallest values that a catalogue takes, and short ways to say what is read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import BaseRecord, Listing, NewVersion, Page
from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.digest import digest_of
from lorry.format.manifest import Manifest, ManifestFile, Recipe, RecipeSource
from lorry.format.reference import AdapterName, Reference, parse_adapter_name, parse_reference

T = TypeVar("T")


def digest(seed: object) -> str:
    return digest_of(repr(seed).encode())


def ref(text: str) -> Reference:
    return parse_reference(text)


def adapter(text: str) -> AdapterName:
    return parse_adapter_name(text)


def a_base(seed: int = 1, name: str = "tiny", known_as: tuple[str, ...] = (), vocab_size: int = 32) -> BaseRecord:
    modules = (BaseModule("layers.0.q", ModuleKind.LINEAR, 8, 16), BaseModule("wte", ModuleKind.EMBEDDING, 32, 8))
    facts = BaseFacts(digest(("base", seed)), digest("architecture"), "llama", vocab_size, modules)
    return BaseRecord(name, facts, known_as)


def with_experts(count: int) -> BaseRecord:
    """`a_base()` with so many experts of 4 -> 8 features, stacked in a parameter."""
    base = a_base()
    stack = BaseModule("x.experts.down_proj", ModuleKind.EXPERTS, 4, 8, count)
    return replace(base, facts=replace(base.facts, modules=(*base.facts.modules, stack)))


def a_manifest(  # noqa: PLR0913 - a builder: every option is a keyword with a default
    seed: int = 1,
    *,
    rank: int = 4,
    variant: str = "lora",
    size: int = 10,
    base: int = 1,
    modules: tuple[str, ...] = ("layers.0.q",),
    parents: tuple[str, ...] = (),
    sources: tuple[str, ...] = (),
) -> Manifest:
    recipe = Recipe("ties", '{"density":0.5}', tuple(RecipeSource(d, -0.5) for d in sources), "lorry 0.1.0")
    return Manifest(
        files=(ManifestFile("adapter_model.safetensors", digest(seed), size),),
        base_id=digest(("base", base)),
        config_json='{"r":4}',
        rank=rank,
        alpha=8.0,
        target_modules=modules,
        variant=variant,
        parents=parents,
        recipe=recipe if sources else None,
    )


def a_version(name: str = "cat", seed: int = 1, *, alias: str | None = None, **manifest: object) -> NewVersion:
    target = adapter(name)
    return NewVersion(target.namespace, target.name, a_manifest(seed, **manifest), alias=alias)


def publish(catalog: Catalog, name: str = "cat", seed: int = 1, *, alias: str | None = None, **manifest: object) -> str:
    """Publish, and answer the digest."""
    return catalog.create_version(a_version(name, seed, alias=alias, **manifest))[0].digest


def pages(call: Callable[[Page], Listing[T]], size: int) -> Iterator[tuple[T, ...]]:
    """Page after page of a list."""
    page = Page(size)
    while True:
        listing = call(page)
        yield listing.items
        if not listing.next_token:
            return
        page = Page(size, listing.next_token)


def everything(call: Callable[[Page], Listing[T]], size: int = 2) -> list[T]:
    return [item for items in pages(call, size) for item in items]
