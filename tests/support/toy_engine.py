"""An engine without a model: deterministic, real in all that the runtime can get wrong.

The next token is a hash of what lies in the KV cache, each entry of which carries the token and the
contents of the pool rows that were active. So a wrong row, a wrong block, a lost chunk or a
batch-mate's data changes the answer. Broken invariants are collected in `violations`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from compute_worker.contract import ActiveAdapter, Computed, Drawn, EngineLimits, Sampling, Scored, StepRow
from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.digest import digest_of
from lorry.format.facts import AdapterFacts, Variant
from lorry.format.header import LENGTH_BYTES, TensorEntry
from tests.support.toy_wording import EOS

MODULE = "model.layers.0.self_attn.q_proj"
WIDTH = 64
BASE = BaseFacts(
    base_id=digest_of(b"toy weights"),
    architecture_id=digest_of(b"toy architecture"),
    model_type="toy",
    vocab_size=EOS + 1,
    modules=(
        BaseModule("lm_head", ModuleKind.LINEAR, WIDTH, EOS + 1),
        BaseModule("model.embed_tokens", ModuleKind.EMBEDDING, EOS + 1, WIDTH),
        BaseModule(MODULE, ModuleKind.LINEAR, WIDTH, WIDTH),
    ),
)
LIMITS = EngineLimits(pool_rows=16, row_bytes=100, kv_blocks=64, block_tokens=4, max_context=128)

# What is active for a request: (content of the adapter's rows, weight) each.
Active = tuple[tuple[str, float], ...]
# What a position of the KV cache holds: the token, and what was active when it was computed.
Cell = tuple[int, Active]


def content_of(weights: bytes) -> str:
    """What the rows of an adapter hold: the values of its file."""
    begin = LENGTH_BYTES + int.from_bytes(weights[:LENGTH_BYTES], "little")
    return hashlib.sha256(weights[begin:]).hexdigest()


def next_token(cells: Sequence[Cell], sampling: Sampling, index: int) -> int:
    """The toy's model: every 64th token or so ends the text, the others are bytes of ASCII or UTF-8."""
    drawn = (sampling.seed, index) if sampling.temperature else ()
    value = int.from_bytes(hashlib.sha256(repr((list(cells), drawn)).encode()).digest()[:4], "big")
    return EOS if value % 64 == 0 else (value >> 8) % 256


def likelihood(cells: Sequence[Cell], token: int) -> float:
    """The toy's log-probability of a token behind these."""
    return -int.from_bytes(hashlib.sha256(repr((list(cells), token)).encode()).digest()[:2], "big") / 1024


def likelihoods(prompt: Sequence[int], continuation: Sequence[int], active: Active, start: int = 0) -> list[float]:
    """What a continuation must get, whatever runs beside it. start: where the adapters become active."""
    cells = [(token, active if at >= start else ()) for at, token in enumerate((*prompt, *continuation))]
    return [likelihood(cells[:end], cells[end][0]) for end in range(len(prompt), len(cells))]


def reference(
    prompt: Sequence[int], active: Active, max_new: int, sampling: Sampling | None = None, *, start: int = 0
) -> list[int]:
    """The tokens that a request must get, whatever runs beside it; an end of text included.

    start: where the adapters become active.
    """
    context = list(prompt)
    while len(context) < len(prompt) + max_new and context[len(prompt) :][-1:] != [EOS]:
        cells = [(token, active if at >= start else ()) for at, token in enumerate(context)]
        context.append(next_token(cells, sampling or Sampling(), len(context) - len(prompt)))
    return context[len(prompt) :]


def _scored(cells: Sequence[Cell], targets: Sequence[int]) -> Scored:
    behind = [(cells[: len(cells) - len(targets) + 1 + at], target) for at, target in enumerate(targets)]
    return Scored(
        tuple(likelihood(before, target) for before, target in behind),
        tuple(next_token(before, Sampling(), 0) == target for before, target in behind),
    )


@dataclass(frozen=True)
class ToyHost:
    """A parsed adapter."""

    content: str
    rank: int
    nbytes: int
    exclusive: bool = False
    vocab: int | None = None


class ToyReading:
    """Values that come tensor by tensor."""

    def __init__(self, engine: ToyEngine, facts: AdapterFacts) -> None:
        self._engine = engine
        self._facts = facts
        self._values = bytearray()

    def take(self, tensor: TensorEntry, data: memoryview) -> None:
        self._engine._require(tensor.end - tensor.start == len(data), "a tensor came in part")
        self._values += data

    def finish(self) -> ToyHost:
        self._engine.reads += 1
        content, facts = hashlib.sha256(self._values).hexdigest(), self._facts
        exclusive = facts.variant is Variant.DORA or bool(facts.saved or facts.tokens or facts.biases)
        rows = {shape[0] for module in facts.saved for _, shape in module.parameters} - {EOS + 1}
        self._engine.vocabularies[content] = vocab = rows.pop() if rows else None
        return ToyHost(content, self._engine.rows_of(facts), len(self._values), exclusive, vocab)


class ToyEngine:
    """See the module. step_seconds, install_seconds: how long the two take; `broken` fails the next steps."""

    device = "toy"
    dtype = "hash"
    executor = "toy"

    def __init__(
        self, limits: EngineLimits = LIMITS, *, step_seconds: float = 0.0, install_seconds: float = 0.0
    ) -> None:
        self.base = BASE
        self.limits = limits
        self.step_seconds = step_seconds
        self.install_seconds = install_seconds
        self.violations: list[str] = []
        self.broken = 0
        self.unreadable: set[str] = set()  # contents whose install fails
        self.steps: list[list[int]] = []  # number of tokens of each row of each step
        self.installs: list[str] = []
        self.reads = 0
        self.prepared = self.tidied = self.extended = 0
        self.vocabularies: dict[str, int | None] = {}  # own ones, by content
        self.running = threading.Event()  # cleared: steps wait before they begin
        self.running.set()
        self.installing = threading.Event()  # cleared: installs wait in their midst
        self.installing.set()
        self._pool: list[str | None] = [None] * limits.pool_rows
        self._kv: dict[tuple[int, int], Cell] = {}
        self._writing: set[int] = set()
        self._reading: set[int] = set()
        self._lock = threading.Lock()

    def reading(self, facts: AdapterFacts) -> ToyReading:
        return ToyReading(self, facts)

    def rows_of(self, facts: AdapterFacts) -> int:
        """What is replaced takes a row for each of its modules, beside the rank."""
        return max(facts.rank, len(facts.saved))

    def install(self, adapter: ToyHost, start: int) -> None:
        rows = set(range(start, start + adapter.rank))
        self._require(max(rows) < self.limits.pool_rows, "an install reaches beyond the pool")
        with self._marked(self._writing, rows):
            for row in rows:
                self._pool[row] = None
            self.installing.wait()
            time.sleep(self.install_seconds)
            if adapter.content in self.unreadable:
                raise RuntimeError("the device refused the copy")
            for row in rows:
                self._pool[row] = adapter.content
        self.installs.append(adapter.content)

    def prepare(self) -> None:
        self.prepared += 1

    def tidy(self) -> None:
        self.tidied += 1

    def extend(self, blocks: int) -> bool:
        self.extended = min(blocks, self.extended + 1)
        return self.extended < blocks

    def step(self, rows: Sequence[StepRow]) -> list[Computed]:
        self.running.wait()
        if self.broken:
            self.broken -= 1
            raise RuntimeError("the device fell over")
        uses = Counter(block for row in rows for block in row.blocks)
        written = [block for row in rows for block in row.blocks[row.position // self.limits.block_tokens :]]
        self._require(all(uses[block] == 1 for block in written), "a KV block is written that another row uses")
        self.steps.append([len(row.ids) for row in rows])
        used = {at for row in rows for one in row.adapters for at in range(one.start, one.start + one.rank)}
        with self._marked(self._reading, used):
            drawn = [self._run(row) for row in rows]
            time.sleep(self.step_seconds)
        return drawn

    def _run(self, row: StepRow) -> Computed:
        size, end = self.limits.block_tokens, row.position + len(row.tokens)
        self._require(len(row.blocks) * size >= end + len(row.draft), "the blocks do not cover the row")
        self._require(list(row.context[row.position : end]) == list(row.tokens), "tokens are not the context's")
        active = tuple((self._content(one), one.weight) for one in row.adapters)
        for position, token in enumerate(row.ids, row.position):
            self._kv[row.blocks[position // size], position % size] = (token, active)
        cells = [self._kv.get((row.blocks[at // size], at % size), (-1, ())) for at in range(end + len(row.draft))]
        if row.sample or row.targets:
            self._require(
                [cell[0] for cell in cells[:end]] == list(row.context[:end]), "the KV cache holds other tokens"
            )
        if row.targets:
            return _scored(cells, row.targets)
        if row.sample is None:
            return None
        if not row.draft:
            return self._draw(row, cells, row.sample, row.index)
        drawn = [self._draw(row, cells[: end + at], row.sample, row.index + at) for at in range(1 + len(row.draft))]
        right = [guess == each.token for guess, each in zip(row.draft, drawn, strict=False)]
        return tuple(drawn[: 1 + [*right, False].index(False)])

    def _draw(self, row: StepRow, cells: Sequence[Cell], sampling: Sampling, index: int) -> Drawn:
        token, active = next_token(cells, sampling, index), cells[-1][1]
        own = [vocab for content, _ in active if (vocab := self.vocabularies.get(content))]
        vocab = own[0] if own else EOS + 1
        if row.allowed is not None:
            self._require(len(row.allowed) == -(-vocab // 8), "a mask is not as wide as its vocabulary")
        while row.allowed is not None and not row.allowed[token // 8] >> token % 8 & 1:
            token = (token + 1) % vocab
        return Drawn(token, -1.0 if sampling.logprobs is not None else None)

    def _content(self, one: ActiveAdapter) -> str:
        contents = set(self._pool[one.start : one.start + one.rank])
        self._require(len(contents) == 1 and None not in contents, f"{one} has rows of {contents}")
        return str(contents.pop())

    @contextmanager
    def _marked(self, marks: set[int], rows: set[int]) -> Iterator[None]:
        other = self._reading if marks is self._writing else self._writing
        with self._lock:
            self._require(not rows & other, "rows are written while a step uses them")
            self._require(marks is self._reading or not rows & marks, "two installs write the same rows")
            marks |= rows
        try:
            yield
        finally:
            with self._lock:
                marks -= rows

    def _require(self, holds: bool, violation: str) -> None:  # noqa: FBT001 - an assertion in words
        if not holds:
            self.violations.append(violation)
