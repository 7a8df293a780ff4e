"""What the methods do with tensors of one shape: prune each, then add them up.

Owns the formulas of linear, magnitude_prune, ties, dare_linear and dare_ties, whatever the tensors are:
factors, deltas or biases. TIES arXiv 2306.01708, DARE arXiv 2311.03099, in PEFT's form
(peft.utils.merge_utils). Every step is a rounded elementwise operation in the order of the sources, and
no draw depends on another: equal tensors give equal bits on any machine and any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compute_worker.merge.draws import draw, key_of
from compute_worker.merge.methods import Parameters

# Module, side (`A`, `B`, `delta` or `bias`) and digest of its source: where a tensor belongs.
Place = tuple[str, str, str]
_Prune = Callable[[Tensor, Place], Tensor]
_Add = Callable[[Iterable[Tensor], Sequence[float]], Tensor]


@dataclass(frozen=True, slots=True)
class Again:
    """Tensors that are made anew each time they are gone through, so that one is there at a time."""

    make: Callable[[], Iterator[Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        return self.make()


def weighted_sum(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i weights_i tensors_i."""
    scaled = (_times(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True))
    total = next(scaled)
    for each in scaled:
        total += each
    return total


def elected_mean(tensors: Iterable[Tensor], weights: Sequence[float], majority_sign: str) -> Tensor:
    """TIES: the weighted sum of the values that have the elected sign, over their number.

    The sign of an entry is elected before and without weights, by the sum of the values (`total`) or of
    their signs (`frequency`); a draw is positive. A zero agrees with neither sign.
    """
    votes = tensors if majority_sign == "total" else Again(lambda: (tensor.sign() for tensor in tensors))
    elected = torch.where(weighted_sum(votes, [1.0] * len(weights)) >= 0, 1.0, -1.0)
    total, count = torch.zeros_like(elected), torch.zeros_like(elected)
    for tensor, weight in zip(tensors, weights, strict=True):
        agrees = tensor.sign() == elected
        total += torch.where(agrees, _times(tensor, weight), 0.0)
        count += agrees
    return total / count.clamp(min=1)


def keep_largest(tensor: Tensor, density: float) -> Tensor:
    """All but the int(density * size) largest absolute values set to 0; of equal ones the first in row order stay."""
    kept = int(density * tensor.numel())
    if kept == tensor.numel():
        return tensor
    if not kept:
        return torch.zeros_like(tensor)
    sizes = tensor.abs().flatten()
    bound = sizes.kthvalue(sizes.numel() - kept + 1).values
    above, level = sizes > bound, sizes == bound
    keep = above | (level & (level.cumsum(0) <= kept - above.sum()))
    return torch.where(keep.reshape(tensor.shape), tensor, 0.0)


def keep_random(tensor: Tensor, density: float, key: int) -> Tensor:
    """Each value kept with probability `density` and divided by it, else 0; 1 prunes nothing."""
    if density >= 1:
        return tensor
    return torch.where(draw(tensor.shape, density, key), tensor, 0.0) / density


@dataclass(frozen=True, slots=True)
class Operator:
    """A way to prune each source's tensor, and a way to add the pruned ones up."""

    prune: _Prune
    add: _Add

    def merge(self, tensors: Iterable[Tensor], weights: Sequence[float], places: Sequence[Place]) -> Tensor:
        """One tensor out of one a source, all of one shape, in fp32. tensors: may be gone through more than once."""
        return self.add(Again(lambda: map(self.prune, tensors, places)), weights)


def operator_of(name: str, given: Parameters) -> Operator:
    """The operator of a method; methods that prune nothing have linear's."""

    def all_of(tensor: Tensor, _place: Place) -> Tensor:
        return tensor

    def largest(tensor: Tensor, _place: Place) -> Tensor:
        return keep_largest(tensor, given.density)

    def random(tensor: Tensor, place: Place) -> Tensor:
        return keep_random(tensor, given.density, key_of(given.seed, *place))

    def elect(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        return elected_mean(tensors, weights, given.majority_sign)

    return {
        "magnitude_prune": Operator(largest, weighted_sum),
        "ties": Operator(largest, elect),
        "dare_linear": Operator(random, weighted_sum),
        "dare_ties": Operator(random, elect),
    }.get(name.removesuffix("_svd"), Operator(all_of, weighted_sum))


def _times(tensor: Tensor, weight: float) -> Tensor:
    # A tensor and not a number: what is beyond fp32 becomes infinite, and is found where the result is stored.
    return tensor * torch.tensor(weight, dtype=tensor.dtype)
