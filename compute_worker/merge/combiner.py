"""`TorchCombiner`: sources in, a merged adapter on disk out.

Owns the way from a recipe to a result: check, read, one formula a module, write. A module that only some
sources adapt uses only those. Does not know where sources come from, names, caches or the wire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compute_worker.combination import CombineMethod, CombineSource, Deviation
from compute_worker.merge.comparing import deviation
from compute_worker.merge.files import Merged, write_adapter
from compute_worker.merge.methods import METHODS, Form, Parameters, check_method
from compute_worker.merge.operators import Again, Operator, operator_of
from compute_worker.merge.room import check_room
from compute_worker.merge.sources import BaseWeight, Share, Sources
from compute_worker.merge.stacked import Factors, bounded, fitting, nearest, one_thread, stack, truncate
from lorry.format.facts import AdaptedModule


class TorchCombiner:
    """The merges of `methods.METHODS`, computed on the CPU in fp32 and stored in the sources' widest dtype.

    base: the weights that the deltas of DoRA sources belong to.
    """

    def __init__(self, base: BaseWeight) -> None:
        self._base = base

    def combine(self, method: CombineMethod, sources: Sequence[CombineSource], into: Path) -> None:
        """See Combiner. Equal recipes on equal sources give equal bytes, however many threads there are."""
        parameters = check_method(method, sources)
        if not parameters.rank:
            parameters = replace(parameters, rank=max(source.facts.rank for source in sources))
        opened = Sources(sources)
        opened.check_copies(self._base)
        carried = opened.carried()
        with one_thread():
            merged = [
                _Module(module, method.name, opened.parts(name), parameters, partial(self._base, name)).merged()
                for name, module in opened.modules.items()
            ]
        write_adapter(into, merged, carried, opened.dtype, sources)

    def compare(self, sources: Sequence[CombineSource], made: Path) -> Deviation:
        """See Combiner."""
        with one_thread():
            return deviation(Sources(sources), made, self._base)


@dataclass(frozen=True, slots=True)
class _Module:
    """One module of a merge. weight: gives the base's."""

    module: AdaptedModule
    method: str
    parts: Sequence[Share]
    parameters: Parameters
    weight: Callable[[], NDArray[np.float32]]

    def merged(self) -> Merged:
        form = {
            Form.FACTORS: self._of_factors,
            Form.STACK: self._of_stack,
            Form.DELTA: self._of_deltas,
        }[METHODS[self.method].form]
        return Merged(self.module, form(), self._bias())

    def _of_factors(self) -> Factors:
        """A and B on their own: v_i = sgn(c_i) sqrt|c_i| on A, sqrt|c_i| on B, c_i = w_i s_i."""
        coefficients = [part.weight * part.scaling for part in self.parts]
        roots = [math.sqrt(abs(coefficient)) for coefficient in coefficients]
        signed = [math.copysign(root, coefficient) for root, coefficient in zip(roots, coefficients, strict=True)]
        return Factors(
            self._apply([part.factors.a for part in self.parts], signed, "A"),
            self._apply([part.factors.b for part in self.parts], roots, "B"),
        )

    def _of_stack(self) -> Factors:
        return bounded(self._stacked()) if self.method == "sum" else self._stacked()

    def _of_deltas(self) -> Factors:
        given = self.parameters
        if self.method == "svd" and all(part.magnitude is None for part in self.parts):
            return truncate(self._stacked(), given.rank, given.clamp_quantile)
        check_room(self.module, self.method)
        deltas = Again(lambda: (part.delta(self.weight).float() for part in self.parts))
        merged = fitting(self._apply(deltas, self._weights, "delta"), self._weights)
        return nearest(merged, given.rank, given.clamp_quantile)

    def _bias(self) -> Tensor | None:
        """The biases s_i b_i, combined as the deltas that they are."""
        biased = [part for part in self.parts if part.bias is not None]
        if not biased:
            return None
        biases = [part.bias * part.scaling for part in biased if part.bias is not None]
        return self._apply(biases, [part.weight for part in biased], "bias", biased)

    def _stacked(self) -> Factors:
        return stack([part.factors for part in self.parts], self._weights, [part.scaling for part in self.parts])

    def _apply(
        self, tensors: Iterable[Tensor], weights: Sequence[float], side: str, parts: Sequence[Share] = ()
    ) -> Tensor:
        places = [(self.module.name, side, part.digest) for part in parts or self.parts]
        return self._operator.merge(tensors, weights, places)

    @property
    def _operator(self) -> Operator:
        return operator_of(self.method, self.parameters)

    @property
    def _weights(self) -> list[float]:
        return [part.weight for part in self.parts]
