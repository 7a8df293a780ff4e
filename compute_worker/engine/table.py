"""An embedding of the base, wherever its rows are kept.

Owns the wrapper that takes an embedding's place in a model, and that its rows may be another's: a head that
shares its weight keeps them in a form of its own. Does not know what adapters change of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compute_worker.engine.kernels import Packed


class Table(nn.Module):
    """`base`, with its rows or with those of a matrix that holds the same. Every other attribute is the base's."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self.shape = (base.num_embeddings, base.embedding_dim)
        self.dtype: torch.dtype = base.weight.dtype
        self._elsewhere: Packed | None = None

    def give_up(self, elsewhere: Packed) -> None:
        """Free the weight, which is kept elsewhere from now on. The base looks rows up and does nothing else."""
        self.base.weight = nn.Parameter(self.base.weight.new_empty(0), requires_grad=False)
        self._elsewhere = elsewhere

    def rows(self) -> Tensor:
        """All of it, [ids, size], in its own type."""
        return self.base.weight.detach() if self._elsewhere is None else self._elsewhere.rows().to(self.dtype)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows as they are kept, [ids, size], in their own type or in float32. Raises IndexError."""
        return functional.embedding(ids, self.base.weight) if self._elsewhere is None else self._elsewhere.lookup(ids)

    def forward(self, ids: Tensor) -> Tensor:
        """From ids [...] to [..., size]. Raises IndexError."""
        if self._elsewhere is None:
            of_base: Tensor = self.base(ids)
            return of_base
        return self.lookup(ids.flatten()).to(self.dtype).view(*ids.shape, self.shape[1])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def lay_tables(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Put a Table in the place of each embedding among the named modules, tied weights left tied."""
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Table(module))
