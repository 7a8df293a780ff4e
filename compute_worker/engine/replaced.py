"""What an adapter has beside LoRA on linears, from the tensors of its file to changes of modules.

Owns which module can take which kind, and the check that it has the same shape there. Does not know LoRA on
linears, nor when a file is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compute_worker.engine.changes import (
    Change,
    EmbeddingLora,
    OtherColumns,
    OtherLinear,
    OtherModule,
    OtherRows,
    OtherTable,
    like,
)
from compute_worker.engine.linear import AdaptedLinear
from compute_worker.engine.reach import Reach
from compute_worker.engine.table import Table
from compute_worker.engine.tensors import cast, taken
from lorry.errors import IncompatibleAdapter, UnsupportedAdapter
from lorry.format.facts import AdaptedModule, TrainedTokens
from lorry.format.names import Part, lora_names, tensor_name

Tensors = Mapping[str, Tensor]
# Ids that an embedding is tried with, and tokens that another module is: two show that each goes by itself.
_TRIED = 2
# Between an embedding's output and its rows times its scale, in the type of bfloat16.
_SAME = 1e-2


@dataclass(frozen=True, slots=True)
class Given:
    """A parameter in the file: its name there, and its shape."""

    tensor: str
    shape: tuple[int, ...]


def other(name: str, given: Mapping[str, Given], reach: Reach) -> Callable[[Tensors], Change]:
    """How a module's own parameters, by name, are read. Raises UnsupportedAdapter, IncompatibleAdapter."""
    if name in reach.linears:
        return _linear(name, given, reach)
    if name in reach.embeddings:
        return _table(name, given, reach)
    if name in reach.others:
        return _module(name, given, reach)
    raise unreachable(name)


def tokens(facts: TrainedTokens, tensors: Tensors, reach: Reach) -> OtherRows | OtherColumns:
    """Trained tokens, of an embedding or of a linear (the head). Raises InvalidAdapter, UnsupportedAdapter."""
    name = tensor_name(facts.name, Part.TOKENS)
    shape = (len(facts.indices), facts.features)
    if facts.name in reach.linears:
        return token_columns(facts, taken(tensors, name, shape), reach.linears[facts.name], name)
    if facts.name not in reach.embeddings:
        raise unreachable(facts.name)
    module = reach.embeddings[facts.name]
    index, order = _ascending(facts.indices)
    rows = taken(tensors, name, shape).float()[order] * scale_of(facts.name, module)
    return OtherRows(index, cast(rows, module.dtype, name))


def token_columns(facts: TrainedTokens, rows: Tensor, head: AdaptedLinear, name: str) -> OtherColumns:
    """The same rows as columns of a head."""
    index, order = _ascending(facts.indices)
    bias = head.base.bias
    if bias is not None and int(index[-1]) >= len(bias):
        raise UnsupportedAdapter(f"{name}: expected tokens of the base beside a head with a bias, got {int(index[-1])}")
    # PEFT drops the bias of such a head for all tokens; the base has it, so have we.
    of_tokens = None if bias is None else bias.detach().cpu()[index]
    return OtherColumns(index, cast(rows[order], head.a.dtype, name), of_tokens)


def embedding_lora(facts: AdaptedModule, reach: Reach, tensors: Tensors) -> EmbeddingLora:
    """LoRA on an embedding. Raises InvalidAdapter, IncompatibleAdapter, UnsupportedAdapter."""
    if facts.name not in reach.embeddings:
        raise unreachable(facts.name)
    if facts.magnitude or facts.lora_bias:
        raise UnsupportedAdapter(f"{facts.name}: expected plain LoRA on an embedding, got DoRA or a bias of its own")
    module = reach.embeddings[facts.name]
    names = lora_names(facts)
    a = taken(tensors, names[0], (facts.rank, facts.in_features))
    b = taken(tensors, names[1], (facts.out_features, facts.rank))
    factor = facts.scaling * scale_of(facts.name, module)
    a, b = cast(a.T, module.dtype, names[0]), cast(b.T.float() * factor, module.dtype, names[1])
    return EmbeddingLora(a, b)


def check_copy(name: str, tensors: Tensors, reach: Reach) -> None:
    """Raise IncompatibleAdapter where the file's copy of a base weight is another, but for the roundings of either."""
    tensor = tensor_name(name, Part.BASE_WEIGHT)
    own = (reach.embeddings[name] if name in reach.embeddings else reach.linears[name]).rows()
    own, copied = own.cpu(), tensors[tensor]
    # What kernels keep is rounded to the pool's type, in whatever type it is read out.
    types = {own.dtype, copied.dtype, *(layer.a.dtype for layer in reach.linears.values())}
    if own.shape != copied.shape or not any(torch.equal(own.to(each), copied.to(each)) for each in types):
        raise IncompatibleAdapter(
            f"{tensor}: expected a copy of the base's weight, got another; it was trained on another base"
        )


def unreachable(name: str) -> UnsupportedAdapter:
    """The error for a module that has no place for adapters."""
    return UnsupportedAdapter(f"expected modules that see every token (no experts, no routers), got {name}")


def scale_of(name: str, module: Table) -> float:
    """What the embedding multiplies its rows with. Raises UnsupportedAdapter where it does more than that."""
    scale = float(getattr(module, "embed_scale", 1.0))
    ids = torch.arange(min(_TRIED, module.shape[0]), device=module.weight.device)
    if not torch.allclose(module.forward(ids).float(), module.lookup(ids).float() * scale, rtol=_SAME):
        raise UnsupportedAdapter(f"{name}: expected an embedding that looks up rows, got {type(module.base).__name__}")
    return scale


def _ascending(indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    index = torch.tensor(indices)
    order = index.argsort()
    return index[order], order


def _linear(name: str, given: Mapping[str, Given], reach: Reach) -> Callable[[Tensors], OtherLinear]:
    target = reach.linears[name]
    turned = isinstance(target.base, Conv1D)
    sizes = (target.out_features, target.in_features)
    of_weight = _weight(name, given, sizes[::-1] if turned else sizes, any_rows=name == reach.head and not turned)
    rows = target.out_features if turned else of_weight.shape[0]
    if "bias" not in given and target.base.bias is not None and rows != target.out_features:
        raise IncompatibleAdapter(f"{name}: expected a bias beside a weight of another number of rows, got none")

    def read(tensors: Tensors) -> OtherLinear:
        weight = taken(tensors, of_weight.tensor, of_weight.shape)
        bias = None if target.base.bias is None else target.base.bias.detach().cpu()
        if "bias" in given:
            bias = cast(taken(tensors, given["bias"].tensor, (rows,)), torch.float32, given["bias"].tensor)
        return OtherLinear(cast(weight.T if turned else weight, target.a.dtype, of_weight.tensor), bias)

    return read


def _table(name: str, given: Mapping[str, Given], reach: Reach) -> Callable[[Tensors], OtherTable]:
    module = reach.embeddings[name]
    of_weight = _weight(name, given, module.shape, any_rows=name == reach.entry)
    scale = scale_of(name, module)

    def read(tensors: Tensors) -> OtherTable:
        table = taken(tensors, of_weight.tensor, of_weight.shape)
        return OtherTable(cast(table if scale == 1 else table.float() * scale, module.dtype, of_weight.tensor))

    return read


def _weight(name: str, given: Mapping[str, Given], expected: tuple[int, ...], *, any_rows: bool) -> Given:
    """The weight among a module's parameters. any_rows: of as many rows as its vocabulary has tokens."""
    came = given["weight"].shape if "weight" in given else ()
    if came != expected and not (any_rows and len(came) == len(expected) and came[1:] == expected[1:]):
        raise _unlike(f"{name}.weight", expected, came)
    return given["weight"]


def _module(name: str, given: Mapping[str, Given], reach: Reach) -> Callable[[Tensors], OtherModule]:
    module = reach.others[name]
    own = dict(module.named_parameters(recurse=False))
    for parameter, each in given.items():
        if parameter not in own or tuple(own[parameter].shape) != each.shape:
            came = own[parameter].shape if parameter in own else ()
            raise _unlike(f"{name}.{parameter}", tuple(came), each.shape)
    _check_alone(name, module, reach.shapes[name], next(iter(own.values())))

    def read(tensors: Tensors) -> OtherModule:
        read = {
            parameter: cast(taken(tensors, each.tensor, each.shape), own[parameter].dtype, each.tensor)
            for parameter, each in given.items()
        }
        return OtherModule(like(module, read), tuple(read.values()))

    return read


def _check_alone(name: str, module: nn.Module, shape: tuple[int, ...], parameter: Tensor) -> None:
    """Raise UnsupportedAdapter where a module's answer for a token depends on the tokens beside it."""
    noise = torch.Generator(parameter.device).manual_seed(0)
    x = torch.randn(1, _TRIED, *shape, generator=noise, dtype=parameter.dtype, device=parameter.device)
    apart = torch.cat([module.forward(part) for part in torch.split(x, 1, dim=1)], 1)
    if "forward" in vars(module) or not torch.allclose(module.forward(x), apart, rtol=_SAME):
        raise UnsupportedAdapter(f"{name}: expected a module that answers token by token, got {type(module).__name__}")


def _unlike(name: str, expected: tuple[int, ...], came: tuple[int, ...]) -> IncompatibleAdapter:
    return IncompatibleAdapter(f"{name}: expected shape {list(expected)}, got {list(came)}")
