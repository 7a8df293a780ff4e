"""What an adapter is, derived from its configuration and tensor index alone.

Owns the facts that the registry records, the verdict judges and the worker serves by. Does not
read weights, and never believes a claim that the bytes do not bear out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Variant(StrEnum):
    """How an adapter changes its base."""

    LORA = "lora"
    RSLORA = "rslora"
    DORA = "dora"


class Feature(StrEnum):
    """What an adapter does beyond LoRA on linear layers, by PEFT's words for it."""

    ALORA = "alora"
    BIAS = "bias"
    EMBEDDING = "embedding"
    MODULES_TO_SAVE = "modules_to_save"
    TARGET_PARAMETERS = "target_parameters"
    TRAINABLE_TOKENS = "trainable_tokens"


@dataclass(frozen=True, slots=True)
class AdaptedModule:
    """One module that the adapter changes.

    A is [rank, in_features], B is [out_features, rank]; scaling is alpha / rank, or alpha /
    sqrt(rank) with rsLoRA, after the configuration's patterns. embedding: LoRA on an embedding, whose
    input is its rows: A is [rank, in_features] and B [out_features, rank] all the same.
    """

    name: str
    rank: int
    scaling: float
    in_features: int
    out_features: int
    lora_bias: bool = False
    magnitude: bool = False
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class AdaptedExperts:
    """LoRA on each of the experts whose weights one parameter of a module stacks.

    name: of the module; parameter: of its weights. A is [experts * rank, in_features], an expert's rows together; B is
    [out_features, rank * experts], of each rank a column for every expert. inner: PEFT wrapped this parameter
    first, and another one around it.
    """

    name: str
    parameter: str
    experts: int
    rank: int
    scaling: float
    in_features: int
    out_features: int
    inner: bool = False

    @property
    def path(self) -> str:
        """Of the parameter."""
        return f"{self.name}.{self.parameter}"


@dataclass(frozen=True, slots=True)
class SavedModule:
    """A module whose parameters the adapter replaces: one of `modules_to_save`, or a resized embedding or head.

    parameters: (`weight` or `bias`, shape), as the base's module has them. under_tokens: it was saved
    beside trained tokens of the same module, which replace rows of it, not of the base's.
    """

    name: str
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    under_tokens: bool = False


@dataclass(frozen=True, slots=True)
class TrainedTokens:
    """Rows of an embedding or of the head that take the place of the base's.

    indices: token ids, in the order of the rows. Where the base's head is tied to its embedding and
    only the embedding is named, the same rows are the head's.
    """

    name: str
    indices: tuple[int, ...]
    features: int


@dataclass(frozen=True, slots=True)
class TrainedBias:
    """A bias [features] in the place of the bias of one of the base's modules."""

    name: str
    features: int


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """The adapter as a whole.

    rank: the largest over modules and experts. alpha: lora_alpha before patterns. base_name: the
    configuration's base_model_name_or_path, None where it has none. config_json: canonical JSON of
    the configuration (sorted keys, neutral fields dropped). dtype: of the tensors, safetensors'
    name (`F32`, `BF16`, `F16`). modules, saved, tokens, biases, experts: ordered by name. invocation: token ids
    from whose last occurrence in a prompt on an activated LoRA is active; empty where it always is.
    bias: `none`, or which of the base's biases were trained: `all`, or `lora_only` (those of `modules`).
    copies: modules whose own base weight the file repeats; it has to equal the base's, and says nothing.
    """

    variant: Variant
    rank: int
    alpha: float
    base_name: str | None
    config_json: str
    dtype: str
    modules: tuple[AdaptedModule, ...]
    saved: tuple[SavedModule, ...] = ()
    tokens: tuple[TrainedTokens, ...] = ()
    biases: tuple[TrainedBias, ...] = ()
    invocation: tuple[int, ...] = ()
    bias: str = "none"
    copies: tuple[str, ...] = ()
    experts: tuple[AdaptedExperts, ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """Paths of the modules that it changes in any way, of experts those of their parameters, ordered."""
        names = {module.name for module in self.modules} | {module.name for module in self.saved}
        names |= {experts.path for experts in self.experts}
        trained = {tokens.name for tokens in self.tokens} | {bias.name for bias in self.biases}
        return tuple(sorted(names | trained))

    @property
    def features(self) -> tuple[Feature, ...]:
        """What it does beyond LoRA on linear layers, ordered; a resized vocabulary counts as modules_to_save."""
        there = {
            Feature.ALORA: self.invocation,
            Feature.BIAS: self.biases,
            Feature.EMBEDDING: any(module.embedding for module in self.modules),
            Feature.MODULES_TO_SAVE: self.saved,
            Feature.TARGET_PARAMETERS: self.experts,
            Feature.TRAINABLE_TOKENS: self.tokens,
        }
        return tuple(feature for feature, found in there.items() if found)
