"""A real worker on a free port of loopback, in this process or in its own, over a tiny random model.

Owns the model's folder (llama in float32, a tokenizer with one token a character of ASCII, a chat
template), adapters that fit it, start and stop. Does not know what a test does with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from compute_worker.app import engine_settings, worker
from compute_worker.contract import Engine
from compute_worker.engine.build import build_engine
from compute_worker.settings import Settings
from compute_worker.wording import Tokenizer
from lorry.fingerprint import base_facts
from lorry.format.base import BaseFacts
from tests.support.adapters import write_adapter
from tests.support.models import config_of, from_config
from tests.support.process import ServerProcess, server_process

MODEL_NAME = "tiny"
# Long enough that a generation can be stopped in its midst: a step takes about a millisecond.
CONTEXT = 8192
# 240 rows of 4,364 bytes over all linears, and 4,096 tokens of KV.
POOL_BYTES = 1 << 20
HOST_BYTES = 64 << 20
KV_BYTES = 1 << 20
# Attention and MLP of both layers: (in, out) by module.
SHAPES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": (32, 32),
        "self_attn.v_proj": (32, 16),
        "mlp.down_proj": (48, 32),
    }.items()
}
_SPECIAL = ("<pad>", "<bos>", "<eos>")
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}{{ raise_exception('unknown role') }}{% endif %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@cache
def tiny_llama() -> PreTrainedModel:
    """The base, as transformers holds it. Shared: whoever changes it takes a copy."""
    config = config_of("llama")
    config.max_position_embeddings = CONTEXT
    return from_config(config)


def tiny_base() -> BaseFacts:
    """The base as facts."""
    return base_facts(tiny_llama())


def save_model(into: Path, model: PreTrainedModel | None = None) -> Path:
    """A Hugging Face folder: weights, tokenizer and chat template."""
    (model or tiny_llama()).save_pretrained(into)
    # Visible characters stand for themselves, the other bytes for later letters in their order (GPT-2's alphabet).
    signs = [
        chr(byte) if chr(byte).isprintable() and byte > ord(" ") else chr(256 + min(byte, 33)) for byte in range(128)
    ]
    ids = {token: number for number, token in enumerate((*_SPECIAL, *signs))}
    raw = RawTokenizer(models.BPE(vocab=ids, merges=[], unk_token="?"))  # noqa: S106 - a token, no password
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(list(_SPECIAL))
    pad, bos, eos = _SPECIAL
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=pad, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(into)
    return into


def tiny_adapter(into: Path, seed: int, rank: int = 2, **options: Any) -> Path:
    """A random adapter that fits the base and moves its logits plainly; see adapters.adapter_bytes."""
    modules = {name: (*shape, rank) for name, shape in SHAPES.items()}
    return write_adapter(into, modules, seed=seed, **{"scale": 0.3, "base_name": MODEL_NAME, **options})


@dataclass(frozen=True)
class RunningWorker:
    """`engine` is the one that serves: tests look at its tensors, never at a copy."""

    target: str
    engine: Engine
    tokenizer: Tokenizer


def worker_settings(folder: Path, model: Path, registry: str, **settings: Any) -> Settings:
    """Settings of a worker in this process; its cache lies below `folder`."""
    fields = {
        "listen": "127.0.0.1:0",
        "registry": registry,
        "model": str(model),
        "model_name": MODEL_NAME,
        "dtype": "float32",
        "cache_dir": folder,
        "pool_bytes": POOL_BYTES,
        "host_bytes": HOST_BYTES,
        "kv_bytes": KV_BYTES,
        "max_context": 0,
        "grace_seconds": 0,
    }
    return Settings(**fields | settings)


@asynccontextmanager
async def running_worker(folder: Path, model: Path, registry: str, **settings: Any) -> AsyncIterator[RunningWorker]:
    """A worker in this process."""
    chosen = worker_settings(folder, model, registry, **settings)
    engine, tokenizer = build_engine(engine_settings(chosen))
    async with worker(chosen, engine, tokenizer) as target:
        yield RunningWorker(target, engine, tokenizer)


@contextmanager
def worker_process(folder: Path, model: Path, registry: str, **settings: Any) -> Iterator[ServerProcess]:
    """`lorry-worker serve`; ended when the block ends, if it has not by then."""
    chosen = worker_settings(folder / "cache", model, registry, **settings)
    ours = {f"LORRY_WORKER_{name.upper()}": str(value) for name, value in chosen.model_dump(exclude_none=True).items()}
    with server_process("compute_worker", folder, {"OMP_NUM_THREADS": "1"} | ours) as process:
        yield process
