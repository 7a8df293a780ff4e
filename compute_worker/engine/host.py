"""An adapter in host memory: read tensor by tensor, checked against the base, ready to be copied into the pool.

Owns parsing, scaling and the row norms of DoRA; everything that can fail does so here, before a
pool row is touched. Does not know where in the pool an adapter will lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compute_worker.engine.linear import AdaptedLinear
from lorry.errors import IncompatibleAdapter, InvalidAdapter, UnsupportedAdapter
from lorry.format.base import BaseFacts
from lorry.format.compatibility import judge, refuse
from lorry.format.derive import tensor_names
from lorry.format.facts import AdaptedModule, AdapterFacts
from lorry.format.header import TensorEntry, header_length, parse_header

# As the header calls them; little endian, as all that torch runs on.
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Rows of the base's weight that are widened to float32 at once: 8 MB at 2,048 features.
_NORM_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Magnitude:
    """DoRA: y = gain * (W x + s B A x) + bias, that is gain * y' + shift with y' = W x + bias + s B A x.

    gain [out] = m / |W + s B A| by row (arXiv 2402.09353, eq. 5), shift [out] = (1 - gain) * bias, both
    float32; shift is None where the module has no bias.
    """

    gain: Tensor
    shift: Tensor | None


@dataclass(frozen=True, slots=True)
class HostModule:
    """One module's weights. a: [rank, in], b: [rank, out] = scaling * B^T, both in the base's type.

    bias: scaling * lora_bias, [out], float32.
    """

    a: Tensor
    b: Tensor
    bias: Tensor | None
    magnitude: Magnitude | None

    @property
    def rank(self) -> int:
        """Pool rows in this module."""
        return self.a.shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """Everything that takes memory."""
        extra = (self.magnitude.gain, self.magnitude.shift) if self.magnitude else ()
        yield from (tensor for tensor in (self.a, self.b, self.bias, *extra) if tensor is not None)


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A HostAdapter of this engine."""

    modules: Mapping[str, HostModule]

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""
        return sum(tensor.nbytes for module in self.modules.values() for tensor in module.tensors())

    @property
    def rank(self) -> int:
        """Pool rows that it needs: its largest rank."""
        return max(module.rank for module in self.modules.values())

    @property
    def exclusive(self) -> bool:
        """Whether it is a DoRA: no other adapter may be active beside it."""
        return any(module.magnitude is not None for module in self.modules.values())


class Reading:
    """An AdapterReading of this engine: a module is cast and scaled as soon as its last tensor came.

    targets: the modules that adapters can reach. Raises UnsupportedAdapter, IncompatibleAdapter.
    """

    def __init__(self, facts: AdapterFacts, base: BaseFacts, targets: Mapping[str, AdaptedLinear]) -> None:
        refuse(judge(facts, base, claimed=None))
        _check_reachable(facts, targets)
        self._targets = targets
        self._facts = facts
        self._names = {module.name: _names(module) for module in facts.modules}
        self._owners = {name: module for module in facts.modules for name in self._names[module.name]}
        self._tensors: dict[str, Tensor] = {}
        self._modules: dict[str, HostModule] = {}

    def take(self, tensor: TensorEntry, data: bytearray) -> None:
        """See AdapterReading."""
        owner = self._owners.get(tensor.name)
        if owner is not None and data:
            self._tensors[tensor.name] = torch.frombuffer(data, dtype=_DTYPES[tensor.dtype]).view(tensor.shape)
            if all(name in self._tensors for name in self._names[owner.name]):
                self._add(owner)

    def finish(self) -> LoadedAdapter:
        """See AdapterReading."""
        for module in self._facts.modules:
            if module.name not in self._modules:
                self._add(module)  # says which tensor is missing
        return LoadedAdapter(self._modules)

    def _add(self, module: AdaptedModule) -> None:
        self._modules[module.name] = _module(module, self._targets[module.name], self._tensors)
        for name in self._names[module.name]:
            del self._tensors[name]


def read_file(weights: Path, reading: Reading) -> LoadedAdapter:
    """All tensors of a file. Raises InvalidAdapter and what `reading` raises, OSError."""
    data = weights.read_bytes()
    for tensor in parse_header(data[: header_length(data)], len(data)).tensors:
        reading.take(tensor, bytearray(data[tensor.start : tensor.end]))
    return reading.finish()


def _names(module: AdaptedModule) -> list[str]:
    a, b, bias, magnitude = tensor_names(module.name)
    return [a, b, *([bias] if module.lora_bias else ()), *([magnitude] if module.magnitude else ())]


def _check_reachable(facts: AdapterFacts, targets: Mapping[str, AdaptedLinear]) -> None:
    missed = [module.name for module in facts.modules if module.name not in targets]
    if missed:
        raise UnsupportedAdapter(
            f"expected modules that see every token (no experts, no routers), got {', '.join(missed[:5])}"
        )


def _module(facts: AdaptedModule, target: AdaptedLinear, tensors: Mapping[str, Tensor]) -> HostModule:
    names = tensor_names(facts.name)
    dtype = target.a.dtype
    a = _cast(_take(tensors, names[0], (facts.rank, facts.in_features)), dtype, names[0])
    # Widened and turned in one copy; what is scaled in float32 is rounded once.
    b = torch.empty(facts.rank, facts.out_features).copy_(_take(tensors, names[1], (facts.out_features, facts.rank)).T)
    b = _cast(b.mul_(facts.scaling), dtype, names[1])
    bias = None
    if facts.lora_bias:
        bias = _cast(_take(tensors, names[2], (facts.out_features,)) * facts.scaling, torch.float32, names[2])
    magnitude = None
    if facts.magnitude:
        if facts.lora_bias:
            raise UnsupportedAdapter(f"{facts.name}: DoRA with lora_bias is not defined in PEFT and not served")
        magnitude = _magnitude(_take(tensors, names[3], (facts.out_features,)), target, a, b, names[3])
    return HostModule(a, b, bias, magnitude)


def _take(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    if name not in tensors:
        raise InvalidAdapter(f"expected a tensor {name}, the file has none")
    if tuple(tensors[name].shape) != shape:
        raise IncompatibleAdapter(f"{name}: expected shape {list(shape)}, got {list(tensors[name].shape)}")
    return tensors[name]


def _cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """In `dtype`, contiguous and finite: the pool multiplies other requests' zeros with whatever it holds."""
    cast = tensor.to(dtype).contiguous()
    # NaN and infinities survive a sum, which takes a quarter of the time; one that overflows by itself is looked into.
    if not (math.isfinite(float(cast.sum(dtype=torch.float32))) or bool(torch.isfinite(cast).all())):
        raise InvalidAdapter(f"{name}: expected values that are finite in {str(dtype).removeprefix('torch.')}")
    return cast


def _magnitude(m: Tensor, target: AdaptedLinear, a: Tensor, b: Tensor, name: str) -> Magnitude:
    weight = target.rows()
    wide_a = a.to(weight.device).float()
    norms = [
        torch.linalg.vector_norm(rows.float() + columns.to(weight.device).float().T @ wide_a, dim=1)
        for rows, columns in zip(torch.split(weight, _NORM_ROWS), torch.split(b, _NORM_ROWS, dim=1), strict=True)
    ]
    gain = m.float() / torch.cat(norms).cpu()
    if not bool(torch.isfinite(gain).all()):
        raise InvalidAdapter(f"{name}: a row of the base's weight with its delta is zero, its magnitude has no meaning")
    bias = target.base.bias
    return Magnitude(gain, None if bias is None else (1 - gain) * bias.detach().float().cpu())
