"""What a model's own masks let a query see, however long the text: a window or a chunk shows in no short prompt.

Owns the way to have a model make its masks, and the questions that are put to them about positions that no probe
at start reaches. Does not know how attention is computed, nor what a model is served with.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from compute_worker.engine.attention import NAME, Rule, attention
from lorry.errors import UnsupportedModel

# Of an attention that is as ours, and for which transformers makes masks.
_NAME = f"{NAME}-masked"
# (sequence, head, query, keys [L]) -> whether each is seen, as transformers' masks are written.
Mask: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_SEEN: ContextVar[dict[int, Mask | None]] = ContextVar("masks")


@contextmanager
def masked(model: PreTrainedModel) -> Iterator[Mapping[int, Mask | None]]:
    """Within the block the model attends through the step in progress, and tells what masks its layers would be given.

    By layer; None where what a layer is given is not what a mask was made of.
    """
    seen: dict[int, Mask | None] = {}
    token = _SEEN.set(seen)
    model.set_attn_implementation(_NAME)
    try:
        yield seen
    finally:
        model.set_attn_implementation(NAME)
        _SEEN.reset(token)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    _SEEN.get()[int(module.layer_idx)] = getattr(attention_mask, "made_by", None)  # type: ignore[arg-type] # an int
    return attention(module, query, key, value, None, **others)


def _mask(*, mask_function: Mask, **others: Any) -> Tensor | None:
    mask: Tensor | None = eager_mask(mask_function=mask_function, **others)
    if mask is not None:  # as where all see all
        mask.made_by = mask_function  # type: ignore[attr-defined] # goes with this very tensor to the layers
    return mask


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)


def check_masks(kind: str, masks: Mapping[int, Mask | None], rules: Mapping[int, Rule], context: int) -> None:
    """Raise UnsupportedModel where a layer's mask shows other keys than its rule says, of `context` tokens."""
    for mask, window in {(masks.get(layer), rule.window) for layer, rule in rules.items()}:
        if mask is None:
            raise UnsupportedModel(f"{kind}: expected a mask of transformers' own for every layer that attends")
        different = [query for query in _telling(window, context) if not _alike(mask, window, query)]
        if different:
            # Whoever is beyond a window or a chunk stays there.
            least = bisect_left(range(different[0] + 1), x=True, key=lambda query: not _alike(mask, window, query))
            raise UnsupportedModel(
                f"{kind}: its masks show position {least} other keys than its attention is told to weigh (a window of "
                f"{window or 'all'}); it can be served with a context of up to {least} tokens, got {context}"
            )


def _telling(window: int | None, context: int) -> Iterator[int]:
    """Positions of which one at least is beyond any window or chunk that ends within the context."""
    powers = [1 << power for power in range(context.bit_length())]
    edges = {0, context - 1} | {edge + by for edge in (*powers, window or 1) for by in (-1, 0, 1)}
    return (edge for edge in sorted(edges) if 0 <= edge < context)


def _alike(mask: Mask, window: int | None, query: int) -> bool:
    first, place = torch.tensor(0), torch.tensor(query)
    keys = torch.arange(query + 2)
    expected = (keys <= query) & (keys > query - (window or query + 1))
    try:
        return torch.equal(mask(first, first, place, keys).cpu().expand_as(keys), expected)
    except (IndexError, RuntimeError, TypeError, ValueError):  # it looks into what a short prompt was given
        return False
