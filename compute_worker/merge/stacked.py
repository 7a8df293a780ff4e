"""The merges that stack factors: cat (exact) and svd (its best approximation of a given rank).

Owns both formulas. Neither forms the dense delta [out, in]: a module's sources have a handful of rank
rows, and what there is to know lies in a core of that size. Does not know files or configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorry.errors import InvalidCombination


@dataclass(frozen=True, slots=True)
class Factors:
    """A [rank, in] and B [out, rank] in fp32; the delta is B A."""

    a: Tensor
    b: Tensor


def stack(sources: Sequence[Factors], weights: Sequence[float], scalings: Sequence[float]) -> Factors:
    """sum_i w_i s_i B_i A_i, exactly: weighted A_i under each other, B_i beside each other; ranks add up.

    Raises InvalidCombination where a weighted value is beyond fp32.
    """
    scaled = [source.a * weight * scaling for source, weight, scaling in zip(sources, weights, scalings, strict=True)]
    a = torch.cat(scaled, dim=0)
    if not a.isfinite().all():
        raise InvalidCombination(f"expected weights at which the factors fit fp32, got {list(weights)}")
    return Factors(a, torch.cat([source.b for source in sources], dim=1))


def truncate(exact: Factors, rank: int, clamp_quantile: float | None) -> Factors:
    """The factors of rank `rank` (or of all that there is, where that is less) nearest to `exact`.

    With D = B A = U S V: B' = U S, A' = V, cut to the largest singular values (Eckart and Young). Through
    QR of both factors and an SVD of the core R_b R_a^T, in fp64. A singular vector's sign is free; here
    the largest entry of each column of U is positive, so that the result, and the quantile that clamping
    cuts at, are determined. Raises InvalidCombination where that quantile is below 0.
    """
    left, left_core = torch.linalg.qr(exact.b.double())
    right, right_core = torch.linalg.qr(exact.a.double().T)
    u, s, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    b, a = (left @ u)[:, :rank], (v @ right.T)[:rank]
    sign = torch.where(b.gather(0, b.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0)
    b, a = (b * sign * s[:rank]).float(), (a * sign.T).float()
    if clamp_quantile is None:
        return Factors(a, b)
    bound = _quantile(torch.cat([b.flatten(), a.flatten()]), clamp_quantile)
    if bound < 0:
        raise InvalidCombination(
            f"svd: expected a clamp_quantile at which the factors' values are not negative, got {clamp_quantile} "
            f"with {bound:.3g}; quantiles are of signed values, so take one near 1"
        )
    return Factors(a.clamp(-bound, bound), b.clamp(-bound, bound))


def _quantile(values: Tensor, q: float) -> float:
    """torch.quantile with linear interpolation, without its limit of 16 million values."""
    ordered = values.sort().values
    position = q * (values.numel() - 1)
    low = int(position)
    high = min(low + 1, values.numel() - 1)
    return float(torch.lerp(ordered[low], ordered[high], position - low))
