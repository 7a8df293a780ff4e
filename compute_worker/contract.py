"""What the worker's runtime and its engine say to each other.

Owns: plain values and Protocols, nothing that runs. The runtime (cache, scheduler, routes) sees an
engine only as `Engine`, so it can be tested without a model and the engine can become another
process. Does not know torch, grpc, names of adapters, or why a row range was chosen.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from lorry.format.base import BaseFacts
from lorry.format.facts import AdapterFacts
from lorry.format.manifest import Manifest, ManifestFile, Recipe


@dataclass(frozen=True, slots=True)
class ActiveAdapter:
    """An adapter of a request, as rows of the pool: `rank` rows from `start` on, times `weight`."""

    start: int
    rank: int
    weight: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's next token is drawn. `temperature` 0 is greedy; `top_k` 0 keeps all tokens.

    `seed` and the token's index in the answer are the whole state of the random numbers: a draw
    never depends on batch-mates and can be repeated. `logprobs` None: none are returned.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One request's part of a step: a chunk of its prompt, or the token of a decode step.

    tokens: the ids to run, at positions `position`, `position + 1`, ...
    blocks: ids of the KV blocks of the request, in order; they cover position + len(tokens).
    sample: draw the next token behind the last of `tokens`; None in the midst of a prompt.
    context: all ids of the request so far, `tokens` included (the repetition penalty looks there).
    index: how many tokens of the answer were drawn before.
    """

    tokens: Sequence[int]
    position: int
    blocks: Sequence[int]
    adapters: tuple[ActiveAdapter, ...]
    sample: Sampling | None
    context: Sequence[int]
    index: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """The token that a row drew. Log-probabilities are natural, before temperature and filters."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sizes that the engine was built with.

    pool_rows: rows of the rank pool. row_bytes: bytes of one row over all modules.
    kv_blocks, block_tokens: KV blocks, and tokens in each. max_context: tokens of a request.
    """

    pool_rows: int
    row_bytes: int
    kv_blocks: int
    block_tokens: int
    max_context: int


class HostAdapter(Protocol):
    """An adapter in host memory, ready to be installed. Opaque but for these."""

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""

    @property
    def rank(self) -> int:
        """Pool rows that it needs: its largest rank."""

    @property
    def exclusive(self) -> bool:
        """True where no other adapter may be active beside it and its weight must be 1 (DoRA)."""


class Engine(Protocol):
    """One base model, its rank pool and its KV cache."""

    @property
    def base(self) -> BaseFacts:
        """Fingerprint and module table of the base that was loaded."""

    @property
    def limits(self) -> EngineLimits:
        """The sizes it was built with."""

    @property
    def device(self) -> str:
        """Kind of device, for example `cpu`."""

    @property
    def dtype(self) -> str:
        """Type of the weights, for example `bfloat16`."""

    @property
    def executor(self) -> str:
        """What runs its forwards, for example `transformers` or `native-avx2`."""

    def read(self, weights: Path, facts: AdapterFacts) -> HostAdapter:
        """Parse a verified adapter_model.safetensors. Any thread; slow.

        Raises InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter.
        """

    def install(self, adapter: HostAdapter, start: int) -> None:
        """Write the adapter into pool rows [start, start + rank). Any thread.

        No running step may use these rows. Whatever was there before is gone for good.
        """

    def step(self, rows: Sequence[StepRow]) -> list[Drawn | None]:
        """Run one batch; one entry a row, None where nothing was to be drawn. Engine thread only."""


class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""

    def encode(self, text: str) -> list[int]:
        """Ids of a raw text, the tokenizer's own special tokens added."""

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Ids of a conversation of (role, content), ready for the answer. Raises InvalidInput."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; incomplete characters come out as U+FFFD."""


@dataclass(frozen=True, slots=True)
class CombineMethod:
    """A method with its parameters, e.g. ("ties", {"density": 0.5, "majority_sign": "total"}).

    Parameters are complete (defaults filled in), so that equal recipes are equal values.
    """

    name: str
    parameters: tuple[tuple[str, float | int | str], ...] = ()


@dataclass(frozen=True, slots=True)
class CombineSource:
    """A verified adapter on disk (`weights` is its safetensors file) with its weight."""

    weights: Path
    facts: AdapterFacts
    digest: str
    weight: float


class Combiner(Protocol):
    """The merges. Pure: files in, files out; slow; any thread."""

    def combine(self, method: CombineMethod, sources: Sequence[CombineSource], into: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors of the result into `into`.

        Raises InvalidCombination, UnsupportedCombination. Nothing is written where it raises.
        """


@dataclass(frozen=True, slots=True)
class PublishedAdapter:
    """A version as the registry answered: digest, manifest, the reference with its number, and the
    signatures over the manifest, DSSE envelopes that nobody verified yet.
    """

    digest: str
    manifest: Manifest
    reference: str
    signatures: tuple[bytes, ...] = ()
    yank_reason: str | None = None


class Change(Enum):
    """What happened to an adapter at the registry."""

    CREATED = auto()
    YANKED = auto()
    DELETED = auto()
    ALIAS_MOVED = auto()
    ALIAS_DELETED = auto()


@dataclass(frozen=True, slots=True)
class CatalogEvent:
    """Something that happened at the registry. `token` goes on behind it.

    change: None for what is not about an adapter. adapter: `namespace/name`. digest: of the version.
    alias: of an alias that moved or went. reason: why it was yanked.
    """

    token: str
    change: Change | None = None
    adapter: str = ""
    digest: str = ""
    alias: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What the registry said to a heartbeat, by reference as they were sent."""

    missing: tuple[str, ...] = ()
    yanked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Publication:
    """Where a combination is to be published, and how it came about."""

    adapter: str
    alias: str
    description: str
    recipe: Recipe
    base_id: str


class AdapterSource(Protocol):
    """The registry, as the runtime sees it. Raises RegistryUnavailable where it cannot be reached."""

    async def resolve(self, reference: str) -> PublishedAdapter:
        """What the reference means now, its manifest checked against its digest. Raises the registry's own errors."""

    async def fetch(self, file: ManifestFile, into: Path) -> None:
        """Write the file's bytes to `into`, resuming cuts, hashed on the way. Raises DigestMismatch."""

    async def publish(self, directory: Path, publication: Publication) -> PublishedAdapter:
        """Push a folder as a new version. Raises the registry's own errors."""

    async def fits(self, reference: str, base_id: str) -> bool:
        """The registry's verdict on a version and a base; False for a base that it does not know.

        Raises the registry's own errors.
        """

    async def listen(self, token: str) -> AsyncGenerator[CatalogEvent, None]:
        """What happens at the registry, in order, from behind `token` on; without end.

        An empty token means from now on, and this returns once nothing later can be missed.
        Raises ResumeTokenExpired, InvalidResumeToken.
        """

    async def renew(self, holder: str, adapters: Sequence[str], seconds: float) -> Renewed:
        """Say what this worker uses (exact references), in the place of what it said before, for so long."""
