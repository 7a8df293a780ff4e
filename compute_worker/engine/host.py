"""An adapter in host memory, ready to be copied into the pool.

Owns the values, what they weigh in bytes and in pool rows, and which of them no other adapter may be active
beside. Does not know how they were read, nor where in the pool an adapter will lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from compute_worker.engine.changes import Change
from compute_worker.engine.cuda.copies import pinned
from compute_worker.engine.experts import ExpertLora


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
    """One linear's weights. a: [rank, in], b: [rank, out] = scaling * B^T, both in the base's type.

    bias: scaling * lora_bias, and what a trained bias has more than the base's, [out], float32. rank is 0 where
    that is all.
    """

    a: Tensor
    b: Tensor
    bias: Tensor | None
    magnitude: Magnitude | None

    @property
    def rank(self) -> int:
        """Pool rows in this module."""
        return self.a.shape[0]

    def pinned(self, device: torch.device) -> HostModule:
        """The same, its rows where `device` copies them from by itself."""
        a, b = pinned(self.a, device), pinned(self.b, device)
        return self if a is self.a else replace(self, a=a, b=b)

    def tensors(self) -> Iterator[Tensor]:
        """Everything that takes memory."""
        extra = (self.magnitude.gain, self.magnitude.shift) if self.magnitude else ()
        yield from (tensor for tensor in (self.a, self.b, self.bias, *extra) if tensor is not None)


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A HostAdapter of this engine.

    changes: by module, what is no product of pool rows, in the order in which it applies. lone: whether it has
    something in the place of the base's own, beside which no other adapter has a meaning. rows: the memory of
    the changes, in pool rows. vocab: tokens of its own vocabulary, None for the base's. experts: by module, LoRA on
    stacked ones.
    """

    modules: Mapping[str, HostModule]
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    lone: bool = False
    rows: int = 0
    vocab: int | None = None
    experts: Mapping[str, ExpertLora] = field(default_factory=dict)
    # Bytes of host memory. Added up once: whoever keeps many asks again and again, and there are hundreds of tensors.
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        products = sum(tensor.nbytes for module in self.modules.values() for tensor in module.tensors())
        object.__setattr__(self, "nbytes", products + charged_bytes(self.changes, self.experts))

    @property
    def rank(self) -> int:
        """Pool rows that it needs: its largest rank, or as many as its changes weigh."""
        return max([1, self.rows, *(module.rank for module in self.modules.values())])

    @property
    def exclusive(self) -> bool:
        """Whether no other adapter may be active beside it: a DoRA, or one that replaces something."""
        return self.lone or any(module.magnitude is not None for module in self.modules.values())


def charged_bytes(changes: Mapping[str, tuple[Change, ...]], experts: Mapping[str, ExpertLora]) -> int:
    """Bytes of what is no product of pool rows."""
    replaced = sum(tensor.nbytes for each in changes.values() for change in each for tensor in change.tensors())
    return replaced + sum(tensor.nbytes for each in experts.values() for tensor in each.tensors())
