"""The sources of a merge, module by module.

Owns reading verified files, and what a source means: its factors, its bias, its delta, for a DoRA computed against
the base, and what it puts in the place of the base's own. Tensors are widened to fp32 where they are asked for, so
that no more than a module of them is there at once. Does not know what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from compute_worker.combination import CombineSource
from compute_worker.merge.replacements import Place, Replacement, replacements, unlike
from compute_worker.merge.stacked import Factors
from lorry.errors import DataLoss, UnsupportedCombination
from lorry.format.facts import AdaptedModule, SavedModule, TrainedTokens
from lorry.format.names import Part, lora_names, place, saved_name, tensor_name

# Path of a module -> the base's weight, [out, in] in fp32.
BaseWeight = Callable[[str], NDArray[np.float32]]
_Tensors = dict[str, Tensor]
# What a file may repeat of its base, and of its own replacements: nothing that a result needs.
_REPEATED = frozenset({Part.BASE_WEIGHT, Part.ORIGINAL_WEIGHT, Part.ORIGINAL_BIAS, Part.AGAIN_WEIGHT, Part.AGAIN_BIAS})
_MERGED = frozenset({Part.A, Part.B, Part.B_BIAS, Part.MAGNITUDE, Part.EMBEDDING_A, Part.EMBEDDING_B})


@dataclass(frozen=True, slots=True)
class Share:
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

    def share(self, name: str) -> Share:
        module = self.modules[name]
        a, b, *_ = lora_names(module)
        return Share(
            self.source.digest,
            self.source.weight,
            module.scaling,
            Factors(self.tensors[a].float(), self.tensors[b].float()),
            self.tensors[tensor_name(name, Part.B_BIAS)].float() if module.lora_bias else None,
            self.tensors[tensor_name(name, Part.MAGNITUDE)].float() if module.magnitude else None,
        )

    def replaced(self) -> dict[Place, _Tensors]:
        """The tensors of each replacement, by part of its module."""
        return {
            where: {part: self.tensors[name] for part, name in _parts(one, self.tensors).items()}
            for where, one in replacements(self.source.facts).items()
        }


class Sources:
    """Opened sources. dtype: the widest of the tensors that are merged. modules: all that any of them adapts, by
    name, as the first of them has it.

    Read whole, not mapped: a file that shrinks meanwhile must not take the process along. Raises DataLoss
    where a file is not safetensors or not the adapter that it was, UnsupportedCombination where it has
    tensors that no merge keeps.
    """

    def __init__(self, sources: Sequence[CombineSource]) -> None:
        self._opened = [_open(source) for source in sources]
        merged = (tensor for one in self._opened for name, tensor in one.tensors.items() if place(name)[1] in _MERGED)
        self.dtype = reduce(torch.promote_types, {tensor.dtype for tensor in merged})
        every = {name: module for one in reversed(self._opened) for name, module in one.modules.items()}
        self.modules: Mapping[str, AdaptedModule] = dict(sorted(every.items()))

    def parts(self, module: str) -> list[Share]:
        """What there is to merge in a module, in the order of the sources; those without it have no part."""
        return [one.share(module) for one in self._opened if module in one.modules]

    def check_copies(self, base: BaseWeight) -> None:
        """Raises UnsupportedCombination where what a file repeats of its base is another than the base's."""
        for one in self._opened:
            for name in one.source.facts.copies:
                own = torch.from_numpy(base(name))
                if not _same(one.tensors[tensor_name(name, Part.BASE_WEIGHT)], own, turned=one.modules[name].embedding):
                    raise UnsupportedCombination(
                        f"{name}: {one.source.digest} has another weight for it than the base, which a sum would lose"
                    )

    def carried(self) -> dict[str, Tensor]:
        """What a result has in the place of the base's own, under the names that it has there.

        Raises UnsupportedCombination where sources replace the same by different values.
        """
        found: dict[Place, tuple[_Opened, _Tensors]] = {}
        for one in self._opened:
            for where, values in one.replaced().items():
                first, alike = found.setdefault(where, (one, values))
                if not _equal(alike, values):
                    raise unlike(where, first.source, one.source)
        factors = {name for module in self.modules.values() for name in lora_names(module)}
        tensors: _Tensors = {}
        for where, (first, values) in found.items():
            names = _parts(replacements(first.source.facts)[where], factors)
            tensors |= {names[part]: tensor for part, tensor in values.items()}
        return tensors


def _open(source: CombineSource) -> _Opened:
    try:
        tensors = load(source.weights.read_bytes())
    except SafetensorError as error:
        raise DataLoss(f"{source.digest}: expected a sound safetensors file, got: {error}") from error
    modules = {module.name: module for module in source.facts.modules}
    expected = {name for module in modules.values() for name in lora_names(module)}
    expected |= {name for one in replacements(source.facts).values() for name in _parts(one, tensors).values()}
    if missing := expected - tensors.keys():
        raise DataLoss(f"{source.digest}: expected a tensor {min(missing)}, got none")
    if more := [name for name in sorted(tensors.keys() - expected) if place(name)[1] not in _REPEATED]:
        raise UnsupportedCombination(f"{source.digest}: combining would lose {more[:3]}")
    return _Opened(source, modules, tensors)


def _parts(one: Replacement, names: Container[str]) -> dict[str, str]:
    """What the tensors of a replacement are called in a file that has these tensors besides, by parameter."""
    if isinstance(one, SavedModule):
        return {parameter: saved_name(one, parameter) for parameter, _ in one.parameters}
    if isinstance(one, TrainedTokens):
        return {"rows": tensor_name(one.name, Part.TOKENS)}
    adapted = any(tensor_name(one.name, part) in names for part in (Part.A, Part.EMBEDDING_A, Part.BASE_BIAS))
    return {"bias": tensor_name(one.name, Part.BASE_BIAS if adapted else Part.BIAS)}


def _same(copied: Tensor, own: Tensor, *, turned: bool) -> bool:
    """Equal, but for what the type of the file or the type that the base is held in rounded off. own: [out, in]."""
    own = own.T if turned else own
    rounded = (copied.to(dtype).float() for dtype in (torch.bfloat16, torch.float16))
    return torch.equal(own.to(copied.dtype), copied) or any(torch.equal(one, own) for one in rounded)


def _equal(one: _Tensors, other: _Tensors) -> bool:
    return all(tensor.dtype == other[part].dtype and torch.equal(tensor, other[part]) for part, tensor in one.items())
