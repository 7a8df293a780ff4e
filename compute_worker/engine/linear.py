"""A linear layer of the base with its place for adapters.

Owns the wrapper that takes a layer's place in a model, and the pool's rows of that layer. Does not
know which adapters there are: the pool tells it before each step what to add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from compute_worker.engine.memory import reserve
from lorry.checkpoint import dense


class Term(Protocol):
    """Something that adapters add to a layer's output."""

    def apply(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> None:
        """Change y [tokens, out] in place. x: [tokens, in]; a: [rows, in]; b: [rows, out]."""


class AdaptedLinear(nn.Module):
    """`base`, and what the terms add to its output. Every other attribute is the base's.

    a: [rows, in_features], b: [rows, out_features], the pool's rows of this layer.
    """

    def __init__(self, base: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.base = base
        self.terms: Sequence[Term] = ()
        self.in_features, self.out_features = features(base)
        self.a = self.b = torch.empty(0)
        self._elsewhere: Callable[[], Tensor] | None = None

    def row_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of one pool row that is stored in `dtype`."""
        return (self.in_features + self.out_features) * int(dtype.itemsize)

    def reserve(self, rows: int, dtype: torch.dtype) -> None:
        """Make place for `rows` pool rows, all zero, in `dtype`."""
        device = self.weight.device
        self.a = reserve((rows, self.in_features), dtype, device)
        self.b = reserve((rows, self.out_features), dtype, device)

    def give_up(self, elsewhere: Callable[[], Tensor]) -> None:
        """Free the base's weight, which is kept elsewhere from now on: the module asks for it whenever it runs."""
        self.base.weight = nn.Parameter(self.base.weight.new_empty(0), requires_grad=False)
        self._elsewhere = elsewhere

    def tell(self, terms: Sequence[Term]) -> None:
        """What to add from now on."""
        # Not by attribute: torch looks for parameters in every assignment, which is half of a change of plan.
        self.__dict__["terms"] = terms

    def rows(self) -> Tensor:
        """The base's weight as [out_features, in_features]; in float32 where it is quantised."""
        if self._elsewhere is not None:
            return self._elsewhere()
        weight = dense(self.base.weight.detach())
        return weight.T if isinstance(self.base, Conv1D) else weight

    def forward(self, x: Tensor) -> Tensor:
        """From [..., in_features] to [..., out_features]; the leading dimensions are the tokens of the step."""
        y: Tensor = self.base(x) if self._elsewhere is None else self._from(self._elsewhere(), x)
        if self.terms:
            flat_x, flat_y = x.reshape(-1, self.in_features), y.view(-1, self.out_features)
            for term in self.terms:
                term.apply(flat_x, flat_y, self.a, self.b)
        return y

    def _from(self, weight: Tensor, x: Tensor) -> Tensor:
        return functional.linear(x, weight.to(x.dtype), self.base.bias)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def is_target(module: nn.Module) -> bool:
    """Whether adapters can be added to it. By exact type: routers subclass Linear and return tuples."""
    return type(module) is nn.Linear or isinstance(module, Conv1D)


def features(module: nn.Module) -> tuple[int, int]:
    """(in, out); Conv1D stores its weight as [in, out], Linear as [out, in]."""
    rows, columns = module.weight.shape  # type: ignore[misc] # both kinds of target have a matrix
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
