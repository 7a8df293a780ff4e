"""Attention by torch's flash attention for rows of any length, over paged KV where it lies.

Owns when it may serve and how a step is told to it. Its kernels want blocks of 256 tokens, half precision and
plain causal attention, with a window or without: everything else stays with the gathered attention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compute_worker.engine.attention import GATHERED, Attending, Attention, Rule
from compute_worker.engine.cuda.tables import tables_of
from compute_worker.engine.kv import KvCache, LayerShape
from compute_worker.engine.layout import Layout
from lorry.errors import UnsupportedModel

_log = logging.getLogger(__name__)
# It tells which kernel it takes, in every layer of every step.
logging.getLogger("torch.nn.attention.varlen").setLevel(logging.WARNING)

# The kernels take pages of a multiple of 256 keys and no others (torch 2.13, FlashAttention-2).
_PAGE = 256
# Ampere: FlashAttention-2 runs on it and whatever came later.
_CAPABILITY = (8, 0)
_DTYPES = frozenset({torch.float16, torch.bfloat16})
# Of one head; and a multiple of 8.
_LARGEST_HEAD = 256


@dataclass(frozen=True, slots=True)
class Places:
    """A step's tables on the device.

    slots: where each token's key goes, [T], int64. begins [N + 1], seen [N] and blocks [N, B]: see Tables, int32.
    key_begins: `seen`, summed up, [N + 1], int32. queries, keys: the most that any row has, or more.
    """

    slots: Tensor
    begins: Tensor
    seen: Tensor
    key_begins: Tensor
    blocks: Tensor
    queries: int
    keys: int


# Output [T, heads, D] of queries [T, heads, D] over pages of keys and values [blocks, block_tokens, kv_heads, D].
Kernel = Callable[[Tensor, Tensor, Tensor, Places, Rule], Tensor]


def flash(query: Tensor, keys: Tensor, values: Tensor, places: Places, rule: Rule) -> Tensor:
    """A Kernel."""
    # Here, since it takes 50 ms of a start, and a CPU has no use for it.
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query,
        keys,
        values,
        places.begins,
        places.key_begins,
        places.queries,
        places.keys,
        scale=rule.scaling,
        window_size=window_of(rule, places.queries),
        enable_gqa=True,
        seqused_k=places.seen,
        block_table=places.blocks,
        # More than one split of paged rows gives wrong numbers (pytorch/pytorch#194167). With one, a row's sums are
        # the same beside any other rows.
        num_splits=1,
    )
    return cast("Tensor", output)  # without its aux, which nobody asked for


def window_of(rule: Rule, queries: int) -> tuple[int, int]:
    """Keys to the left and right of a query's own place that it sees, -1 for all."""
    if rule.window is not None:
        return rule.window - 1, 0
    # A single query is the last one: it sees all. Said so, the kernel takes the heads that share keys together.
    return (-1, -1) if queries == 1 else (-1, 0)


class VarlenStep:
    """One step's attention: writes the new keys and values, then answers all rows in one call of the kernel."""

    def __init__(self, cache: KvCache, places: Places, kernel: Kernel = flash) -> None:
        self._cache = cache
        self._places = places
        self._kernel = kernel

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """See Attending."""
        self._cache.write(layer, self._places.slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        keys, values = self._cache.pages(layer)
        return self._kernel(query[0].transpose(0, 1), keys, values, self._places, rule)[None]


def places_of(layout: Layout, cache: KvCache) -> Places:
    """A step's tables, on the cache's device."""
    tables = tables_of(layout, cache.block_tokens)

    def on_device(numbers: object) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=cache.device)

    return Places(
        torch.tensor(layout.slots, device=cache.device),
        on_device(tables.begins),
        on_device(tables.seen),
        on_device([0, *accumulate(tables.seen)]),
        on_device(tables.blocks),
        tables.queries,
        max(tables.seen),
    )


def _begin(cache: KvCache, layout: Layout) -> Attending:
    return VarlenStep(cache, places_of(layout, cache))


def check(shapes: Mapping[int, LayerShape], rules: Mapping[int, Rule]) -> None:
    """Raise UnsupportedModel where a layer asks for what the kernels do not have."""
    for layer, shape in shapes.items():
        if shape.key_size != shape.value_size or shape.key_size % 8 or shape.key_size > _LARGEST_HEAD:
            raise UnsupportedModel(
                f"layer {layer}: expected heads of a multiple of 8 up to {_LARGEST_HEAD}, keys and values alike, "
                f"got {shape.key_size} and {shape.value_size}"
            )
        if rules[layer].softcap is not None or rules[layer].sinks is not None:
            raise UnsupportedModel(f"layer {layer}: expected neither a softcap nor sinks")


# One block to spare: where recorded steps that are filled up write.
VARLEN = Attention("varlen", _PAGE, 1, check, _begin)


def attentions(model: PreTrainedModel, stored: torch.dtype) -> tuple[Attention, ...]:
    """What may serve the model where it lies, the fastest first; the log says what may not, and why."""
    if model.device.type == "cpu":
        return (GATHERED,)
    reason = _unable(model, stored)
    if reason is None:
        return VARLEN, GATHERED
    _log.info("attention %s is not taken: %s", VARLEN.name, reason)
    return (GATHERED,)


def _unable(model: PreTrainedModel, stored: torch.dtype) -> str | None:
    device, context = model.device, getattr(model.config, "max_position_embeddings", None)
    if device.type != "cuda" or torch.version.cuda is None or not torch.backends.cuda.is_flash_attention_available():
        return f"torch has no flash attention for this {device.type}"
    if torch.cuda.get_device_capability(device) < _CAPABILITY:
        return f"expected a device of capability {_CAPABILITY}, got {torch.cuda.get_device_capability(device)}"
    if model.dtype not in _DTYPES or stored != model.dtype:
        return f"expected a half precision throughout, got {model.dtype} stored as {stored}"
    if context is not None and context < 2 * _PAGE:
        return f"expected a context of two blocks of {_PAGE}, got {context}"
    return None
