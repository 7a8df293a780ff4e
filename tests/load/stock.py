"""The adapters of a load: thirty, of every kind, some of them versions of one name; and recipes over them.

Owns what is published, under which references, and where each digest's files lie. Everything has the
same values in each run. Does not know who asks for what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorry import RegistryClient
from tests.support.adapters import write_adapter
from tests.support.peft_adapters import save_adapter
from tests.support.worker import MODEL_NAME, SHAPES, tiny_llama

# Of lora_A and lora_B: an adapter moves logits by as much as the base's own layers do.
_SPREAD = 0.3
_ALIAS = "prod"


@dataclass(frozen=True)
class Kind:
    """An adapter to be written: its rank, the ends of the modules that it adapts, and options of adapter_bytes.

    peft: PEFT itself makes it, with this configuration.
    """

    rank: int
    modules: tuple[str, ...] = ("q_proj", "v_proj", "down_proj")
    ranks: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    peft: Mapping[str, Any] = field(default_factory=dict)

    def write(self, into: Path, seed: int) -> Path:
        """Its two files in a folder."""
        if self.peft:
            return save_adapter(tiny_llama(), into, seed, r=self.rank, **self.peft)
        adapted = {
            name: (*shape, self.ranks.get(name.rpartition(".")[2], self.rank))
            for name, shape in SHAPES.items()
            if name.rpartition(".")[2] in self.modules
        }
        return write_adapter(into, adapted, seed=seed, scale=_SPREAD, base_name=MODEL_NAME, **self.options)


def _kind(rank: int, *modules: str, **options: Any) -> Kind:
    return Kind(rank, modules or Kind(rank).modules, options=options)


def _made(rank: int, *targets: str, **config: Any) -> Kind:
    return Kind(rank, peft={"target_modules": list(targets), **config})


# Letters that some prompts have, as tokens: each is its byte behind three special ones.
_INVOCATION = [3 + byte for byte in b"fox"]
# What may be active beside others, with any weight.
PLAIN: dict[str, Kind] = {
    "lora-1": _kind(1),
    "lora-2": _kind(2),
    "lora-4": _kind(4),
    "lora-8": _kind(8),
    "rslora-2": _kind(2, rslora=True),
    "rslora-4": _kind(4, rslora=True),
    "rslora-8": _kind(8, rslora=True, alpha=6),
    "bias-2": _kind(2, lora_bias=True),
    "bias-4": _kind(4, lora_bias=True, rslora=True),
    "mlp-4": _kind(4, "down_proj"),
    "attention-3": _kind(3, "q_proj", "v_proj"),
    "uneven-5": Kind(5, ranks={"v_proj": 2, "down_proj": 7}),
    "half-4": _kind(4, dtype="BF16"),
    "embedding-3": _made(3, "embed_tokens", "q_proj"),
}
# What stands alone here, at weight 1.
ALONE: dict[str, Kind] = {
    "dora-2": _kind(2, dora=True),
    "dora-4": _kind(4, dora=True),
    "dora-mlp-3": _kind(3, "down_proj", dora=True),
    "head-2": _made(2, "q_proj", modules_to_save=["lm_head"]),
    "ends-2": _made(2, "v_proj", modules_to_save=["embed_tokens", "norm"]),
    "tokens-2": _made(2, "q_proj", trainable_token_indices=[3 + byte for byte in b"aeox"]),
    "invoked-4": _made(4, "q_proj", "v_proj", "down_proj", alora_invocation_tokens=_INVOCATION),
}
# Names whose alias moves from version to version.
MOVING: dict[str, tuple[Kind, ...]] = {
    "blue": (_kind(2), _kind(3, rslora=True), _kind(2, lora_bias=True), _kind(4, "q_proj", "v_proj")),
    "green": (_kind(3), _kind(1), _kind(4, rslora=True), _kind(2, "down_proj")),
}


@dataclass(frozen=True)
class Recipe:
    """A combination: method, its parameters, and sources by name with weights."""

    method: str
    sources: Mapping[str, float]
    parameters: Mapping[str, float | int | str] = field(default_factory=dict)


# Some differ in their weights alone.
RECIPES = (
    Recipe("sum", {"lora-2": 1.0, "lora-4": 0.5}),
    Recipe("sum", {"lora-2": 0.5, "lora-4": 1.0}),
    Recipe("cat", {"lora-1": 1.0, "uneven-5": -1.0}),
    Recipe("cat", {"lora-1": -1.0, "uneven-5": 1.0}),
    Recipe("linear", {"lora-4": 1.0, "rslora-4": 0.5}),
    Recipe("linear", {"lora-4": 0.5, "rslora-4": 1.0}),
    Recipe("ties", {"lora-4": 1.0, "rslora-4": 1.0}, {"density": 0.5, "majority_sign": "total"}),
    Recipe("ties", {"lora-4": 1.0, "rslora-4": -1.0}, {"density": 0.5, "majority_sign": "total"}),
    Recipe("dare_linear", {"lora-2": 1.0, "rslora-2": 1.0}, {"density": 0.7, "seed": 5}),
    Recipe("svd", {"lora-4": 1.0, "rslora-8": 0.5}, {"rank": 3}),
    Recipe("magnitude_prune", {"lora-8": 1.0, "rslora-8": 0.5}, {"density": 0.6}),
    Recipe("sum", {"bias-2": 1.0, "bias-4": 0.5}),
)


def alias_of(name: str) -> str:
    """The reference by the alias that moves."""
    return f"{name}:{_ALIAS}"


@dataclass(frozen=True)
class Stock:
    """digests: by exact reference, `name@number`. folders: files by digest."""

    digests: dict[str, str]
    folders: dict[str, Path]

    @classmethod
    async def publish(cls, registry: RegistryClient, folder: Path) -> Stock:
        """Write and push everything; each alias means its name's first version."""
        stock = cls({}, {})
        single = {name: (kind,) for name, kind in {**PLAIN, **ALONE}.items()}
        for name, versions in {**single, **MOVING}.items():
            for number, kind in enumerate(versions, 1):
                files = kind.write(folder / f"{name}-{number}", seed=len(stock.digests) + 1)
                version = await registry.push(files, name, base=MODEL_NAME, parents=())
                stock.digests[f"{name}@{number}"] = version.digest
                stock.folders[version.digest] = files
        for name in MOVING:
            await registry.set_alias(f"{name}@1", _ALIAS)
        return stock
