"""A registry and a worker in this process, both over real sockets, and what most tests do with them.

Owns the short forms: publish a random adapter, take an answer with its log-probabilities, look at a
budget, call an rpc by its name. Does not know what is right; `oracle` says what PEFT would answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lorry import RegistryClient, WorkerClient
from lorry.format.base import BaseFacts
from lorry.rpc.calls import translated
from lorry.rpc.channel import open_channel
from lorry.rpc.credentials import Credentials
from lorry.selection import Adapters
from lorry.v1 import inference_pb2, residency_pb2, types_pb2
from lorry.v1.inference_pb2_grpc import InferenceServiceStub
from lorry.v1.residency_pb2_grpc import ResidencyServiceStub
from tests.support.peft_adapters import peft_logits
from tests.support.registry import DEADLINE, running_registry
from tests.support.worker import MODEL_NAME, RunningWorker, running_worker, tiny_adapter, tiny_base

TOP = 20
# float32 on both sides; sums are taken in another order.
TOLERANCE = 1e-4
PROMPT = "the quick brown fox"


@dataclass(frozen=True)
class Answer:
    """Greedy tokens, and with each the log-probabilities of the TOP likeliest."""

    tokens: list[int]
    top: list[dict[int, float]]

    def same_as(self, other: Answer) -> bool:
        """Equal tokens, and values that float32 explains."""
        return self.tokens == other.tokens and all(map(_close, self.top, other.top))


def _close(mine: dict[int, float], other: dict[int, float]) -> bool:
    both = mine.keys() & other.keys()
    # The last of the likeliest may change places with one that is as likely.
    return len(both) >= TOP - 1 and all(abs(mine[token] - other[token]) < TOLERANCE for token in both)


async def answer(client: WorkerClient, prompt: str | None = PROMPT, *, length: int = 6, **options: Any) -> Answer:
    """A short greedy answer; `options` as of WorkerClient.generate."""
    asked = client.generate(prompt, max_new_tokens=length, ignore_eos=True, logprobs=TOP, timeout=DEADLINE, **options)
    deltas = [message.delta async for message in asked if message.HasField("delta")]
    tops = [entry for delta in deltas for entry in delta.top_logprobs]
    return Answer(
        [token for delta in deltas for token in delta.token_ids],
        [{e.token_id: e.logprob for e in tops[at : at + TOP]} for at in range(0, len(tops), TOP)],
    )


def agrees(
    given: Answer,
    model: PreTrainedModel,
    folders: Sequence[Path],
    prompt: Sequence[int],
    weights: Sequence[float] = (),
) -> bool:
    """Whether PEFT, on `model` with the adapters of `folders`, would have answered the same."""
    logits = peft_logits(model, folders, [*prompt, *given.tokens[:-1]], weights)
    return given.same_as(answer_of(logits[len(prompt) - 1 :]))


def answer_of(logits: Tensor) -> Answer:
    """The greedy answer of these logits, [tokens, vocabulary]."""
    rows = torch.log_softmax(logits.float(), dim=-1)
    values, ids = (column.tolist() for column in rows.topk(TOP))
    tops = [dict(zip(*row, strict=True)) for row in zip(ids, values, strict=True)]
    return Answer(rows.argmax(-1).tolist(), tops)


class Stubs:
    """The worker's rpcs by name, the request's fields as keywords. Errors are lorry.errors'."""

    def __init__(self, target: str, **credentials: Unpack[Credentials]) -> None:
        self.channel = open_channel(target, **credentials)
        self.inference = InferenceServiceStub(self.channel)
        self.residency = ResidencyServiceStub(self.channel)

    async def call(self, method: str, **fields: Any) -> Any:
        """The answer of a call, or the messages of a stream that ends by itself."""
        stub, messages = self._home(method)
        call = getattr(stub, method)(getattr(messages, f"{method}Request")(**fields), timeout=DEADLINE)
        if not hasattr(call, "__await__"):
            return await self.read_all(call)
        with translated():
            return await call

    async def read_all(self, stream: Any) -> list[Any]:
        """The rest of a stream's messages."""
        with translated():
            return [message async for message in stream]

    async def generate(self, **fields: Any) -> list[inference_pb2.GenerateResponse]:
        """A whole answer."""
        messages: list[inference_pb2.GenerateResponse] = await self.call("Generate", **fields)
        return messages

    def _home(self, method: str) -> tuple[Any, Any]:
        if hasattr(self.inference, method):
            return self.inference, inference_pb2
        return self.residency, residency_pb2


@dataclass(frozen=True)
class Pair:
    """Both services and their clients. `folder` is the test's own."""

    folder: Path
    registry: RegistryClient
    worker: WorkerClient
    stubs: Stubs
    serving: RunningWorker

    async def publish(self, name: str, rank: int = 2, **options: Any) -> types_pb2.Version:
        """Push a random adapter; its folder stays at `path(name)`. Another name is another adapter."""
        options.setdefault("seed", sum(name.encode()) * 100 + rank)
        return await self.registry.push(tiny_adapter(self.path(name), rank=rank, **options), name)

    def path(self, name: str) -> Path:
        """Where the files of a published adapter lie."""
        return self.folder / "adapters" / name

    async def answer(self, adapters: Adapters = (), **options: Any) -> Answer:
        """See `answer`; of the base where no adapters are named."""
        return await answer(self.worker, adapters=adapters, **options)

    async def used(self, budget: str) -> int:
        """What is used of a budget."""
        return next(b.used for b in (await self.worker.capabilities()).budgets if b.name == budget)

    async def idle(self) -> bool:
        """Whether no request holds KV, a place in the queue or a lease."""
        leases = [resident.leases async for resident in self.worker.residents()]
        return not any([await self.used("kv_tokens"), await self.used("queue"), *leases])


@asynccontextmanager
async def running_pair(
    folder: Path, model: Path, base: BaseFacts | None = None, **settings: Any
) -> AsyncIterator[Pair]:
    """A pair whose registry knows the worker's base, the tiny llama unless told; `settings` are the worker's."""
    async with (
        running_registry(folder / "registry") as registry_target,
        running_worker(folder / "worker", model, registry_target, **settings) as serving,
        RegistryClient(registry_target, timeout=DEADLINE) as registry,
        WorkerClient(serving.target, timeout=DEADLINE) as worker,
    ):
        await registry.register_base_model(MODEL_NAME, base or tiny_base())
        stubs = Stubs(serving.target)
        try:
            yield Pair(folder, registry, worker, stubs, serving)
        finally:
            await stubs.channel.close()
