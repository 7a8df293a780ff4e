"""The sources of a merge, module by module.

Owns reading verified files, and what a source means: its factors, its bias, and its delta, for a DoRA
computed against the base. Tensors are widened to fp32 where they are asked for, so that no more than a
module of them is there at once. Does not know what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from compute_worker.combination import CombineSource
from compute_worker.merge.stacked import Factors
from lorry.errors import DataLoss, UnsupportedCombination
from lorry.format.derive import tensor_names
from lorry.format.facts import AdaptedModule

# Path of a module -> the base's weight, [out, in] in fp32.
BaseWeight = Callable[[str], NDArray[np.float32]]
_Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """What one source has to say about one module. Tensors are fp32.

    bias: lora_bias, [out]. magnitude: DoRA's, [out]. Both None where the source has none.
    """

    digest: str
    weight: float
    scaling: float
    factors: Factors
    bias: Tensor | None
    magnitude: Tensor | None

    def delta(self, weight: Callable[[], NDArray[np.float32]]) -> Tensor:
        """What the source adds to the base's weight, [out, in] in fp64.

        s B A; for a DoRA m / |W + s B A| * (W + s B A) - W by row (arXiv 2402.09353, eq. 5).
        weight: gives the base's. Not finite where a row of W + s B A is zero.
        """
        delta = self.scaling * (self.factors.b.double() @ self.factors.a.double())
        if self.magnitude is None:
            return delta
        base = torch.from_numpy(weight()).double()
        adapted = base + delta
        gain: Tensor = self.magnitude.double() / torch.linalg.vector_norm(adapted, dim=1)
        return gain[:, None] * adapted - base


@dataclass(frozen=True, slots=True)
class _Opened:
    source: CombineSource
    modules: dict[str, AdaptedModule]
    tensors: _Tensors

    def part(self, name: str) -> Part:
        a, b, bias, magnitude = tensor_names(name)
        return Part(
            self.source.digest,
            self.source.weight,
            self.modules[name].scaling,
            Factors(self.tensors[a].float(), self.tensors[b].float()),
            self.tensors[bias].float() if bias in self.tensors else None,
            self.tensors[magnitude].float() if magnitude in self.tensors else None,
        )


class Sources:
    """Opened sources. dtype: the widest among their tensors. modules: all that any of them adapts, ordered.

    Read whole, not mapped: a file that shrinks meanwhile must not take the process along. Raises DataLoss
    where a file is not safetensors or not the adapter that it was, UnsupportedCombination where it has
    tensors that no merge keeps.
    """

    def __init__(self, sources: Sequence[CombineSource]) -> None:
        self._opened = [_open(source) for source in sources]
        self.dtype = reduce(torch.promote_types, {t.dtype for one in self._opened for t in one.tensors.values()})
        self.modules = sorted({name for one in self._opened for name in one.modules})

    def parts(self, module: str) -> list[Part]:
        """What there is to merge in a module, in the order of the sources; those without it have no part."""
        return [one.part(module) for one in self._opened if module in one.modules]


def _open(source: CombineSource) -> _Opened:
    try:
        tensors = load(source.weights.read_bytes())
    except SafetensorError as error:
        raise DataLoss(f"{source.digest}: expected a sound safetensors file, got: {error}") from error
    modules = {module.name: module for module in source.facts.modules}
    expected = {name for module in modules.values() for name in _names(module)}
    if missing := expected - tensors.keys():
        raise DataLoss(f"{source.digest}: expected a tensor {min(missing)}, got none")
    if more := tensors.keys() - expected:
        raise UnsupportedCombination(f"{source.digest}: combining would lose {sorted(more)[:3]}")
    return _Opened(source, modules, tensors)


def _names(module: AdaptedModule) -> Iterator[str]:
    a, b, bias, magnitude = tensor_names(module.name)
    yield from (a, b)
    if module.lora_bias:
        yield bias
    if module.magnitude:
        yield magnitude
