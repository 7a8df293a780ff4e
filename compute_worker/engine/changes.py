"""What adapters change that is no product of pool rows: whole weights, rows of an embedding, columns of a head.

Owns the values, and what each does to the output of the module that it belongs to. All of them were checked
before they came here. Does not know which module that is, which tokens it is for, or whether it runs as one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class Change(Protocol):
    """A change of one module's output."""

    @property
    def width(self) -> int:
        """Columns of its output, where it may have another number than the base's; else 0."""

    def tensors(self) -> Iterator[Tensor]:
        """Everything that takes memory of its own."""

    def on(self, device: torch.device) -> Change:
        """The same on a device."""

    def apply(self, x: Tensor, y: Tensor, weight: float) -> None:
        """Change y [tokens, ...] in place. x: what the module was given for these tokens; weight: the adapter's."""


_C = TypeVar("_C")


@dataclass(frozen=True, slots=True)
class Use(Generic[_C]):
    """A change for some of a step's tokens."""

    tokens: slice
    weight: float
    change: _C


def changed(x: Tensor, y: Tensor, uses: Sequence[Use[Change]]) -> Tensor:
    """A module's output y [tokens, ...] as its uses change it: y itself, or one of more columns."""
    more = max(use.change.width for use in uses) - y.shape[-1]
    if more > 0:
        y = functional.pad(y, (0, more))
    for use in uses:
        use.change.apply(x[use.tokens], y[use.tokens], use.weight)
    return y


@dataclass(frozen=True, slots=True)
class OtherLinear:
    """Another matrix in the place of a linear's. weight: [out, in]; bias: [out] or None."""

    weight: Tensor
    bias: Tensor | None

    @property
    def width(self) -> int:
        """See Change."""
        return self.weight.shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """See Change."""
        yield self.weight
        if self.bias is not None:
            yield self.bias

    def on(self, device: torch.device) -> OtherLinear:
        """See Change."""
        return OtherLinear(self.weight.to(device), None if self.bias is None else self.bias.to(device))

    def apply(self, x: Tensor, y: Tensor, weight: float) -> None:  # noqa: ARG002 - nothing else is active beside it
        """See Change."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y[:, : self.width] = functional.linear(x, self.weight.to(x.dtype), bias)


@dataclass(frozen=True, slots=True)
class OtherColumns:
    """Some columns of a linear's output, computed with other rows of its weight.

    index: [n], int64, ascending; rows: [n, in]; bias: [n] or None.
    """

    index: Tensor
    rows: Tensor
    bias: Tensor | None
    width = 0

    def tensors(self) -> Iterator[Tensor]:
        """See Change."""
        yield from (self.index, self.rows)
        if self.bias is not None:
            yield self.bias

    def on(self, device: torch.device) -> OtherColumns:
        """See Change."""
        bias = None if self.bias is None else self.bias.to(device)
        return OtherColumns(self.index.to(device), self.rows.to(device), bias)

    def apply(self, x: Tensor, y: Tensor, weight: float) -> None:  # noqa: ARG002 - nothing else is active beside it
        """See Change."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y.index_copy_(1, self.index, functional.linear(x, self.rows.to(x.dtype), bias))


@dataclass(frozen=True, slots=True)
class OtherTable:
    """Another table in the place of an embedding's. rows: [ids, size], times what the embedding multiplies with."""

    rows: Tensor
    width = 0

    def tensors(self) -> Iterator[Tensor]:
        """See Change."""
        yield self.rows

    def on(self, device: torch.device) -> OtherTable:
        """See Change."""
        return OtherTable(self.rows.to(device))

    def apply(self, x: Tensor, y: Tensor, weight: float) -> None:  # noqa: ARG002 - nothing else is active beside it
        """See Change."""
        y.copy_(functional.embedding(x, self.rows))


@dataclass(frozen=True, slots=True)
class OtherRows:
    """Other rows for some ids of an embedding. index: [n], int64, ascending; rows: [n, size], as OtherTable's."""

    index: Tensor
    rows: Tensor
    width = 0

    def tensors(self) -> Iterator[Tensor]:
        """See Change."""
        yield from (self.index, self.rows)

    def on(self, device: torch.device) -> OtherRows:
        """See Change."""
        return OtherRows(self.index.to(device), self.rows.to(device))

    def apply(self, x: Tensor, y: Tensor, weight: float) -> None:  # noqa: ARG002 - nothing else is active beside it
        """See Change."""
        at = torch.searchsorted(self.index, x).clamp_(max=len(self.index) - 1)
        hit = self.index[at] == x
        y[hit] = self.rows[at[hit]].to(y.dtype)


@dataclass(frozen=True, slots=True)
class EmbeddingLora:
    """LoRA on an embedding: y += weight * a[x] b. a: [ids, rank]; b: [rank, size], with every factor in it."""

    a: Tensor
    b: Tensor
    width = 0

    def tensors(self) -> Iterator[Tensor]:
        """See Change."""
        yield from (self.a, self.b)

    def on(self, device: torch.device) -> EmbeddingLora:
        """See Change."""
        return EmbeddingLora(self.a.to(device), self.b.to(device))

    def apply(self, x: Tensor, y: Tensor, weight: float) -> None:
        """See Change."""
        y.addmm_(functional.embedding(x, self.a).to(y.dtype), self.b.to(y.dtype), alpha=weight)


@dataclass(frozen=True, slots=True)
class OtherModule:
    """Another module in the place of one that sees every token alone. own: the parameters that it does not share."""

    module: nn.Module
    own: tuple[Tensor, ...]
    width = 0

    def tensors(self) -> Iterator[Tensor]:
        """See Change."""
        yield from self.own

    def on(self, device: torch.device) -> OtherModule:
        """See Change."""
        own = {name: part.to(device) for name, part in self.module.named_parameters(recurse=False)}
        return replace(self, module=like(self.module, own))

    def apply(self, x: Tensor, y: Tensor, weight: float) -> None:  # noqa: ARG002 - nothing else is active beside it
        """See Change."""
        # Not called, but its forward: what was hooked to the original is hooked to this one too.
        y.copy_(self.module.forward(x[None])[0])


def like(module: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """The module once more with other parameters of its own; everything else is shared."""
    other = copy.copy(module)
    own = {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in parameters.items()}
    other.__dict__["_parameters"] = {**module.__dict__["_parameters"], **own}
    return other
