"""Sums of deltas and their nearest sums of a lower rank: cat, sum, svd and what the *_svd methods end with.

Owns the linear algebra. Where the sources are factors, nothing of the size [out, in] is formed: a
module's sources have a handful of rank rows, and what there is to know lies in a core of that size.
Does not know files, configurations, or what was pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import torch
from torch import Tensor

from lorry.errors import InvalidCombination


@dataclass(frozen=True, slots=True)
class Factors:
    """A [rank, in] and B [out, rank]; the delta is B A."""

    a: Tensor
    b: Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block's linear algebra on the calling thread alone.

    LAPACK's last bits depend on the number of threads, and results must not; matrices of a few rank rows gain
    nothing by more, and the engine keeps its cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # The number is each thread's own, but a thread that first uses torch takes the one that was set last.
    _in_another_thread(lambda: torch.set_num_threads(threads))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_another_thread(work: Callable[[], None]) -> None:
    thread = Thread(target=work)
    thread.start()
    thread.join()


def stack(sources: Sequence[Factors], weights: Sequence[float], scalings: Sequence[float]) -> Factors:
    """sum_i w_i s_i B_i A_i, exactly: weighted A_i under each other, B_i beside each other; ranks add up.

    Raises InvalidCombination where a weighted value is beyond fp32.
    """
    scaled = [source.a * weight * scaling for source, weight, scaling in zip(sources, weights, scalings, strict=True)]
    return Factors(fitting(torch.cat(scaled, dim=0), weights), torch.cat([source.b for source in sources], dim=1))


def fitting(tensor: Tensor, weights: Sequence[float]) -> Tensor:
    """The tensor, where it is finite. Raises InvalidCombination."""
    if not tensor.isfinite().all():
        raise InvalidCombination(f"expected weights at which the sum fits fp32, got {list(weights)}")
    return tensor


def bounded(exact: Factors) -> Factors:
    """The same delta at a rank of at most min(out, in): above it the delta itself is the smaller factor."""
    rank, wide = exact.a.shape
    tall = exact.b.shape[0]
    if rank <= min(tall, wide):
        return exact
    dense = (exact.b.double() @ exact.a.double()).float()
    return Factors(dense, torch.eye(tall)) if tall <= wide else Factors(torch.eye(wide), dense)


def truncate(exact: Factors, rank: int, clamp_quantile: float | None) -> Factors:
    """The factors of rank `rank` (or of all that there is, where that is less) nearest to `exact`, in fp32.

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


def nearest(delta: Tensor, rank: int, clamp_quantile: float | None) -> Factors:
    """As `truncate`, of a delta [out, in] that is no product of small factors.

    The leading vectors of its shorter side come from its Gram matrix, of that side's size, in fp64: what
    squaring costs lies 1e-16 below the largest eigenvalue, far under fp32's resolution of the delta.
    """
    dense = delta.double()
    if dense.shape[0] <= dense.shape[1]:
        vectors = _leading(dense @ dense.T, rank)
        return truncate(Factors(vectors.T @ dense, vectors), rank, clamp_quantile)
    vectors = _leading(dense.T @ dense, rank)
    return truncate(Factors(vectors.T, dense @ vectors), rank, clamp_quantile)


def norm(factors: Factors) -> float:
    """Frobenius norm of B A, formed only where it is no larger than its factors."""
    if factors.a.shape[0] >= min(factors.b.shape[0], factors.a.shape[1]):
        return float(torch.linalg.matrix_norm(factors.b.double() @ factors.a.double()))
    left = torch.linalg.qr(factors.b.double(), mode="r").R
    right = torch.linalg.qr(factors.a.double().T, mode="r").R
    return float(torch.linalg.matrix_norm(left @ right.T))


def _leading(gram: Tensor, rank: int) -> Tensor:
    # Eigenvalues ascend.
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[:, -rank:].flip(1)


def _quantile(values: Tensor, q: float) -> float:
    """torch.quantile with linear interpolation, without its limit of 16 million values."""
    ordered = values.sort().values
    position = q * (values.numel() - 1)
    low = int(position)
    high = min(low + 1, values.numel() - 1)
    return float(torch.lerp(ordered[low], ordered[high], position - low))
