"""The merges that work on A and on B separately: linear, magnitude_prune, ties, dare_linear, dare_ties.

Owns their formulas as a pruning of each source's factor and a way to add the pruned factors up. Does
not know files, configurations or what a weight means: it gets v_i = sgn(c_i) sqrt|c_i| on A and
sqrt|c_i| on B, with c_i = weight * scaling. Formulas: TIES arXiv 2306.01708, DARE arXiv 2311.03099,
in PEFT's form (peft.utils.merge_utils), whose tensors these are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def keep_largest(factor: Tensor, density: float) -> Tensor:
    """The factor with all but its int(density * size) largest absolute values set to 0; 1 prunes nothing."""
    if density >= 1:
        return factor
    flat = factor.reshape(-1)
    kept = torch.topk(flat.abs(), k=int(density * flat.numel())).indices
    return torch.zeros_like(flat).index_put_((kept,), flat[kept]).reshape(factor.shape)


def keep_random(factor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Each value kept with probability `density` and divided by it, else 0; 1 prunes nothing.

    Drawn as uniform numbers and not by torch.bernoulli, which draws by another library where it has one.
    """
    if density >= 1:
        return factor
    return factor * (torch.rand(factor.shape, generator=generator) < density) / density


def generator_of(seed: int, *names: str) -> torch.Generator:
    """A generator of its own for (recipe's seed, module, side, source): nothing else moves its numbers."""
    key = hashlib.sha256("\n".join((str(seed), *names)).encode()).digest()
    # 63 bits: what torch takes as a seed on every platform.
    return torch.Generator().manual_seed(int.from_bytes(key[:8]) >> 1)


def weighted_sum(factors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i weights_i factors_i; all factors of one shape."""
    return _weighted(torch.stack(list(factors)), weights).sum(dim=0)


def elected_mean(factors: Sequence[Tensor], weights: Sequence[float], majority_sign: str) -> Tensor:
    """TIES: the weighted sum of the values that have the elected sign, over their number.

    The sign of an entry is elected before and without weights, by the sum of the values (`total`) or of
    their signs (`frequency`); a draw is positive. A zero agrees with neither sign.
    """
    stacked = torch.stack(list(factors))
    signs = stacked.sign()
    tally = (stacked if majority_sign == "total" else signs).sum(dim=0)
    agrees = signs == torch.where(tally >= 0, 1, -1)
    return (_weighted(stacked, weights) * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


def _weighted(stacked: Tensor, weights: Sequence[float]) -> Tensor:
    return stacked * torch.tensor(weights, dtype=stacked.dtype).reshape(-1, *[1] * (stacked.dim() - 1))
