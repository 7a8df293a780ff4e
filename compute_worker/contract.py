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
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lorry.format.base import BaseFacts
from lorry.format.facts import AdapterFacts
from lorry.format.header import TensorEntry
from lorry.format.manifest import Manifest, ManifestFile, Recipe
from lorry.partfile import Sink


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
    allowed: which tokens may be drawn, None for all: bit t % 8 of byte t // 8 says it of token t.
    targets: instead of a draw, score these: each is the token that follows one of the last of `tokens`.
    draft: guesses of the next draws. They are run behind `tokens`, `blocks` cover them too; what is drawn behind
    each of them counts where all before it were right.
    """

    tokens: Sequence[int]
    position: int
    blocks: Sequence[int]
    adapters: tuple[ActiveAdapter, ...]
    sample: Sampling | None
    context: Sequence[int]
    index: int
    allowed: bytes | None = None
    targets: Sequence[int] = ()
    draft: Sequence[int] = ()

    @property
    def ids(self) -> Sequence[int]:
        """Everything that is run, from `position` on."""
        return [*self.tokens, *self.draft] if self.draft else self.tokens


@dataclass(frozen=True, slots=True)
class Drawn:
    """The token that a row drew. Log-probabilities are natural, before temperature and filters."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """Of each of a row's targets: its natural log-probability, and whether it was the likeliest token there."""

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]


# What a step gives for a row: None in the midst of a prompt; of a row with a draft as many draws as the draft was
# right, and the next one.
Computed: TypeAlias = Drawn | tuple[Drawn, ...] | Scored | None


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sizes that the engine was built with.

    pool_rows: rows of the rank pool. row_bytes: bytes of one row over all modules.
    kv_blocks, block_tokens, block_bytes: KV blocks, tokens in each, and bytes of one over all layers.
    max_context: tokens of a request. base_bytes: of the base's weights, as they lie in memory. draft_tokens: a decode
    step of so many tokens costs little more than one of a single token, so that drafts may fill it; 0: none.
    """

    pool_rows: int
    row_bytes: int
    kv_blocks: int
    block_tokens: int
    max_context: int
    block_bytes: int = 0
    base_bytes: int = 0
    draft_tokens: int = 0


class HostAdapter(Protocol):
    """An adapter in host memory, ready to be installed. Opaque but for these."""

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""

    @property
    def rank(self) -> int:
        """Pool rows that it needs: its largest rank, or more where it has what does not fit into these."""

    @property
    def exclusive(self) -> bool:
        """True where no other adapter may be active beside it and its weight must be 1 (DoRA, replaced weights)."""

    @property
    def vocab(self) -> int | None:
        """Tokens of its own vocabulary, as many as its logits; None where it has the base's."""


class AdapterReading(Protocol):
    """An adapter whose tensors come one by one, as they are in its file; a thread at a time."""

    def take(self, tensor: TensorEntry, data: memoryview) -> None:
        """One tensor, all of it; `data` can be written, and belongs to the reading now. Slow.

        Raises InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter.
        """

    def finish(self) -> HostAdapter:
        """The adapter. Raises InvalidAdapter where tensors are missing."""


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

    def reading(self, facts: AdapterFacts) -> AdapterReading:
        """Begin to read an adapter. Any thread. Raises UnsupportedAdapter, IncompatibleAdapter."""

    def weight(self, module: str) -> NDArray[np.float32]:
        """The base's weight of a module that adapters reach, [out, in]; to be read alone. Any thread.

        Raises UnsupportedAdapter.
        """

    def install(self, adapter: HostAdapter, start: int) -> None:
        """Write the adapter into pool rows [start, start + rank). Any thread.

        No running step may use these rows. Whatever was there before is gone for good.
        """

    def prepare(self) -> None:
        """Do what the next adapter, one as large as those before, would wait for; once for each. Any thread."""

    def tidy(self) -> None:
        """Give the system back what loads were through with. Any thread, while nobody waits for a load."""

    def extend(self, blocks: int) -> bool:
        """Have a piece more of the memory of the first `blocks` KV blocks, which else the step that is the first to
        write there waits for. Short; whether some is still missing. Engine thread only, while it has nothing to run.
        """

    def step(self, rows: Sequence[StepRow]) -> list[Computed]:
        """Run one batch; one entry a row, None where nothing was to be drawn or scored. Engine thread only."""


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
    """What happened at the registry: to an adapter, or to the family of a base."""

    CREATED = auto()
    YANKED = auto()
    DELETED = auto()
    ALIAS_MOVED = auto()
    ALIAS_DELETED = auto()
    BASE_UPDATED = auto()


@dataclass(frozen=True, slots=True)
class CatalogEvent:
    """Something that happened at the registry. `token` goes on behind it.

    change: None for what concerns no worker. adapter: `namespace/name`, of the first five. digest: of the version.
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

    async def fetch(self, file: ManifestFile, into: Sink) -> None:
        """Send the file's bytes to `into`, resuming cuts, and commit it. Raises DigestMismatch."""

    async def publish(self, directory: Path, publication: Publication) -> PublishedAdapter:
        """Push a folder as a new version. Raises the registry's own errors."""

    async def check_fit(self, reference: str, base_id: str) -> None:
        """Raise IncompatibleAdapter with the registry's reasons where a version does not fit a base, or where it does
        not know that base; else its own errors.
        """

    async def listen(self, token: str) -> AsyncGenerator[CatalogEvent, None]:
        """What happens at the registry, in order, from behind `token` on; without end.

        An empty token means from now on, and this returns once nothing later can be missed.
        Raises ResumeTokenExpired, InvalidResumeToken.
        """

    async def renew(self, holder: str, adapters: Sequence[str], seconds: float) -> Renewed:
        """Say what this worker uses (exact references), in the place of what it said before, for so long."""
