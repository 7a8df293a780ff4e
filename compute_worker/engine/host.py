"""An adapter in host memory: read from its file, checked against the base, ready to be copied into the pool.

Owns parsing, scaling and the row norms of DoRA; everything that can fail does so here, before a
pool row is touched. Does not know where in the pool an adapter will lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from compute_worker.engine.linear import AdaptedLinear
from lorry.errors import IncompatibleAdapter, InvalidAdapter, UnsupportedAdapter
from lorry.format.base import BaseFacts
from lorry.format.compatibility import judge, refuse
from lorry.format.derive import tensor_names
from lorry.format.facts import AdaptedModule, AdapterFacts

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


def read_adapter(
    weights: Path, facts: AdapterFacts, base: BaseFacts, targets: Mapping[str, AdaptedLinear]
) -> LoadedAdapter:
    """Parse a verified file, in memory: a mapped one that is cut short would end the process.

    targets: the modules that adapters can reach. Raises InvalidAdapter, UnsupportedAdapter,
    IncompatibleAdapter; OSError where the file cannot be read.
    """
    refuse(judge(facts, base, claimed=None))
    _check_reachable(facts, targets)
    try:
        tensors = load(weights.read_bytes())
    except SafetensorError as error:
        raise InvalidAdapter(f"{weights.name}: not a safetensors file: {error}") from error
    return LoadedAdapter({module.name: _module(module, targets[module.name], tensors) for module in facts.modules})


def _check_reachable(facts: AdapterFacts, targets: Mapping[str, AdaptedLinear]) -> None:
    missed = [module.name for module in facts.modules if module.name not in targets]
    if missed:
        raise UnsupportedAdapter(
            f"expected modules that see every token (no experts, no routers), got {', '.join(missed[:5])}"
        )


def _module(facts: AdaptedModule, target: AdaptedLinear, tensors: Mapping[str, Tensor]) -> HostModule:
    names = tensor_names(facts.name)
    dtype = target.weight.dtype
    a = _cast(_take(tensors, names[0], (facts.rank, facts.in_features)), dtype, names[0])
    b = _take(tensors, names[1], (facts.out_features, facts.rank)).float() * facts.scaling
    b = _cast(b.T, dtype, names[1])
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
    if not bool(torch.isfinite(cast).all()):
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
