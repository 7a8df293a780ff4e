"""What tests of kernels share: their meaning in torch, numbers, and one operation run alone."""

from __future__ import annotations

import torch
from torch import Tensor

from compute_worker.engine.additions import Added, Additions
from compute_worker.engine.kernels import NOWHERE, Argmax, Kernels, Linear, Operation, Places, Step
from compute_worker.engine.twin import TorchKernels

TWIN = TorchKernels()
# Relative to the largest number: sums of up to 200 float32 in another order, and an exponential to 2 ulp.
CLOSE = 1e-5


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def run(
    kernels: Kernels, operation: Operation, tokens: int, added: Added | None = None, places: Places = NOWHERE
) -> None:
    kernels.program([operation]).run(Step(tokens, places, Additions([added or Added()])))


def near(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    if got.numel():
        assert (got - expected).abs().max() <= CLOSE * expected.abs().max().clamp(min=1)


def product(kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Of all tokens but the last one of x, which must not be touched."""
    out = torch.full((len(x), len(weight)), 7.0)
    run(kernels, Linear(x, kernels.pack(weight, weight.dtype), bias, out), len(x) - 1)
    assert bool((out[-1] == 7).all())
    return out[:-1]


def best(kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None) -> list[int]:
    out = torch.zeros(len(x), dtype=torch.int64)
    run(kernels, Argmax(x, kernels.pack(weight, weight.dtype), bias, out), len(x))
    return out.tolist()
