"""What of a model adapters can reach, and by what name.

Owns which module is the input embedding and which the output head, and whether they share their weight. Does
not know adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compute_worker.engine.experts import is_known
from compute_worker.engine.linear import AdaptedLinear
from compute_worker.engine.selfcheck import TOLERANCE, Measured
from compute_worker.engine.table import Table


@dataclass(frozen=True, slots=True)
class Reach:
    """The modules of a hooked model that see every token of a step (the head: every kept one).

    linears: they have pool rows. embeddings, others: the other modules with parameters; each answers for a token
    by that token alone. shapes: what one token gives to each of `others`. experts: the modules of stacked experts that
    products can be added to. entry, head: names of input embedding and output head, None where they are not among them.
    tied: whether these share their weight. row_bytes: of a pool row over all linears.
    """

    linears: Mapping[str, AdaptedLinear]
    embeddings: Mapping[str, Table]
    others: Mapping[str, nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    experts: Mapping[str, nn.Module]
    entry: str | None
    head: str | None
    tied: bool
    row_bytes: int


def reach_of(
    model: PreTrainedModel, measured: Measured, linears: Mapping[str, AdaptedLinear], stored: torch.dtype
) -> Reach:
    """What of the model, whose linears and embeddings were wrapped after it was measured, adapters can reach."""
    others = {name: model.get_submodule(name) for name in measured.plain}
    embeddings = {name: module for name, module in others.items() if isinstance(module, Table)}
    experts = {name: model.get_submodule(name) for name in measured.experts}
    head = model.get_output_embeddings()
    # Without a head a model may not know its input embedding either.
    entry = None if head is None else model.get_input_embeddings()
    return Reach(
        linears=linears,
        embeddings=embeddings,
        others={name: module for name, module in others.items() if name not in embeddings},
        shapes=measured.plain,
        experts={name: module for name, module in experts.items() if is_known(module, TOLERANCE[model.dtype])},
        entry=next((name for name, module in embeddings.items() if module is entry), None),
        head=next((name for name, layer in linears.items() if layer is head), None),
        tied=entry is not None and head is not None and _shared(entry, head),
        row_bytes=sum(layer.row_bytes(stored) for layer in linears.values()),
    )


def _shared(one: nn.Module, other: nn.Module) -> bool:
    weight = getattr(one, "weight", None)
    return isinstance(weight, Tensor) and weight is getattr(other, "weight", None)
