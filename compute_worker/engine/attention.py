"""Attention over the paged KV, as transformers' models call it.

Owns the function registered with AttentionInterface, its semantics (scaling, window, softcap,
sinks) and the masks of a step. A model's layers find the step in progress through a context
variable, since arguments of their own do not pass through every model. Does not know adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from compute_worker.engine.kv import BLOCK_TOKENS, KvCache, LayerShape
from compute_worker.engine.layout import Layout, Part
from lorry.errors import UnsupportedModel

NAME = "lorry"
# Arguments that say nothing about which keys count for how much. None and False say nothing either.
_NEUTRAL = frozenset({"position_ids"})


@dataclass(frozen=True, slots=True)
class Rule:
    """How a layer weighs its keys.

    Key j is visible to query i where i - window < j <= i (window None: j <= i). Scores are q.k *
    scaling, then tanh(score / softcap) * softcap; a sink is one more logit a head, [heads], that takes
    probability and gives no value.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


class Attending(Protocol):
    """What answers a layer's attention while a model runs."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Query [1, heads, T, D], key [1, kv_heads, T, D], value [1, kv_heads, T, Dv] -> [1, T, heads, Dv]."""


_CURRENT: ContextVar[Attending] = ContextVar("attending")


@contextmanager
def attending(step: Attending) -> Iterator[None]:
    """Within the block, models in this thread attend through `step`."""
    token = _CURRENT.set(step)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def attention(  # noqa: PLR0913 - transformers' signature
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """What a layer's attention calls: the step in progress answers. Raises UnsupportedModel for what is not served."""
    unknown = [
        name for name, value in others.items() if name not in _NEUTRAL and value is not None and value is not False
    ]
    if unknown or attention_mask is not None or dropout or is_causal is False:
        raise UnsupportedModel(
            f"{type(module).__name__}: expected causal attention without a mask or dropout, got "
            f"{', '.join(unknown) or 'another'}"
        )
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    output = _CURRENT.get().attend(int(module.layer_idx), query, key, value, rule)  # type: ignore[arg-type] # an int
    return output.contiguous(), None  # as models expect that make a view of it


# Registered without a mask function: transformers then builds no masks and looks for no packed sequences.
AttentionInterface.register(NAME, attention)


@dataclass(frozen=True, slots=True)
class Attention:
    """A way for all layers of a model to attend, and how keys lie for it.

    name: for people, empty for the one that serves everywhere. spare: KV blocks that it has for itself. check: raises
    UnsupportedModel for layers, by their KV and their rules, that it does not serve. begin: what answers the layers in
    a step.
    """

    name: str
    block_tokens: int
    spare: int
    check: Callable[[Mapping[int, LayerShape], Mapping[int, Rule]], None]
    begin: Callable[[KvCache, Layout], Attending]


class GatheredStep:
    """One step's attention: writes the new keys and values, then answers part by part over gathered blocks."""

    def __init__(self, cache: KvCache, layout: Layout) -> None:
        self._cache = cache
        self._slots = torch.tensor(layout.slots, device=cache.device)
        self._views = [_PartView(part, cache) for part in layout.parts]
        if layout.stale:
            cache.scrub(torch.tensor(layout.stale, device=cache.device))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """See Attending."""
        self._cache.write(layer, self._slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        outputs = [view.attend(layer, (query, key, value), rule) for view in self._views]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None]


class _PartView:
    """A part with its block tables and masks, made once a step for each width of window."""

    def __init__(self, part: Part, cache: KvCache) -> None:
        self._part = part
        self._cache = cache
        self._seen: dict[int | None, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor], rule: Rule) -> Tensor:
        """Output [tokens of the part, heads, Dv]."""
        part = self._part
        query, key, value = (tensor[:, :, part.begin : part.end] for tensor in qkv)
        if part.chunk and part.positions[0] == 0 and _plain(rule, part.end - part.begin):
            output = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=rule.scaling, enable_gqa=True
            )
            return output[0].transpose(0, 1)
        table, mask = self._window(rule.window, query.dtype)
        keys, values = (gathered.to(query.dtype) for gathered in self._cache.gather(layer, table))
        if part.chunk:
            return _attend_chunk(query, keys, values, mask, rule)
        return _attend_decode(query, keys, values, mask, rule)

    def _window(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if window not in self._seen:
            self._seen[window] = self._make_window(window, dtype)
        return self._seen[window]

    def _make_window(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Block table [N, B] and additive mask [N, queries, B * block_tokens]; only blocks with a visible key."""
        part, size, device = self._part, self._cache.block_tokens, self._cache.device
        queries = part.end - part.begin if part.chunk else 1
        firsts = [max(0, position - window + 1) // size if window else 0 for position in part.positions]
        lasts = [(position + queries - 1) // size for position in part.positions]
        width = max(last - first for first, last in zip(firsts, lasts, strict=True)) + 1
        # A shorter row is filled up with its own first block, so that no mask has to hide another request's keys.
        table = [
            [*blocks[first : last + 1], *[blocks[first]] * (width - 1 - last + first)]
            for blocks, first, last in zip(part.blocks, firsts, lasts, strict=True)
        ]
        begin = torch.tensor(firsts, device=device)[:, None, None] * size
        key = begin + torch.arange(width * size, device=device)
        query = torch.tensor(part.positions, device=device)[:, None, None]
        query = query + torch.arange(queries, device=device)[:, None]
        hidden = key > query
        if window:
            hidden |= key <= query - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
        return torch.tensor(table, device=device), mask


def _plain(rule: Rule, tokens: int) -> bool:
    return rule.softcap is None and rule.sinks is None and (rule.window is None or tokens <= rule.window)


def _attend_decode(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, rule: Rule) -> Tensor:
    """Query [1, heads, N, D], keys [N, kv_heads, L, D], mask [N, 1, L] -> [N, heads, Dv].

    Heads that share keys become the queries of one product, so that keys are read once for all of them.
    """
    grouped = query[0].transpose(0, 1).reshape(query.shape[2], keys.shape[1], -1, query.shape[3])
    sinks = None if rule.sinks is None else rule.sinks.view(1, keys.shape[1], -1, 1)
    return _attend(grouped, keys, values, mask[:, None], rule, sinks).flatten(1, 2)


def _attend_chunk(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, rule: Rule) -> Tensor:
    """Query [1, heads, n, D], keys [1, kv_heads, L, D], mask [1, n, L] -> [n, heads, Dv]."""
    heads, tokens = query.shape[1], query.shape[2]
    kv_heads = keys.shape[1]
    grouped = query.reshape(1, kv_heads, -1, query.shape[3])
    sinks = None if rule.sinks is None else rule.sinks.repeat_interleave(tokens).view(1, kv_heads, -1, 1)
    output = _attend(grouped, keys, values, mask.repeat(1, heads // kv_heads, 1)[:, None], rule, sinks)
    return output.view(heads, tokens, -1).transpose(0, 1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, rule: Rule, sinks: Tensor | None) -> Tensor:
    """Query [N, H, M, D], keys [N, H, L, D], values [N, H, L, Dv], additive mask [N, 1, M or 1, L] -> [N, H, M, Dv]."""
    if rule.softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=rule.scaling)
    scores = query @ keys.transpose(-1, -2) * rule.scaling
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], -1)
    weights = functional.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    return weights[..., : keys.shape[2]] @ values


def _anything(shapes: Mapping[int, LayerShape], rules: Mapping[int, Rule]) -> None:
    """The gathered attention serves every layer."""


GATHERED = Attention("", BLOCK_TOKENS, 0, _anything, GatheredStep)
