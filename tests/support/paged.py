"""Flash attention's calls in plain torch, row by row: what the CUDA path computes, where there is no CUDA.

Owns the meaning of its tables and of its window. Pages are as small as the gathered attention's, so that short
prompts reach into several.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from compute_worker.engine.attention import Attention, Rule
from compute_worker.engine.cuda.recording import Work
from compute_worker.engine.cuda.varlen import Kernel, Places, VarlenStep, check, places_of, window_of
from compute_worker.engine.kv import BLOCK_TOKENS


def twin(query: Tensor, keys: Tensor, values: Tensor, places: Places, rule: Rule) -> Tensor:
    """A Kernel: as torch.nn.attention.varlen says that its tables and windows are meant."""
    left, right = window_of(rule, places.queries)
    output = torch.empty_like(query)
    begins, seen = places.begins.tolist(), places.seen.tolist()
    for begin, end, count, blocks in zip(begins, begins[1:], seen, places.blocks, strict=False):
        pages = blocks[: -(-count // keys.shape[1])].long()
        mine, theirs = (pool[pages].flatten(0, 1)[:count].transpose(0, 1) for pool in (keys, values))
        at = torch.arange(count - (end - begin), count, device=query.device)[:, None]
        key = torch.arange(count, device=query.device)
        visible = torch.ones(end - begin, count, dtype=torch.bool, device=query.device)
        if left >= 0:
            visible &= key >= at - left
        if right >= 0:
            visible &= key <= at + right
        output[begin:end] = functional.scaled_dot_product_attention(
            query[begin:end].transpose(0, 1)[None],
            mine[None],
            theirs[None],
            attn_mask=visible,
            scale=rule.scaling,
            enable_gqa=True,
        )[0].transpose(0, 1)
    return output


def paged(kernel: Kernel = twin, block_tokens: int = BLOCK_TOKENS) -> Attention:
    """An Attention that lays everything out as the one on CUDA does, over any kernel."""
    return Attention(
        "paged", block_tokens, 1, check, lambda cache, layout: VarlenStep(cache, places_of(layout, cache), kernel)
    )


class Again:
    """A Recorder that keeps the work as it is, and counts how often it is done again."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, work: Work) -> Work:
        """See Recorder."""
        work()
        return self._counted(work)

    def _counted(self, work: Callable[[], None]) -> Work:
        def replay() -> None:
            self.replays += 1
            work()

        return replay
