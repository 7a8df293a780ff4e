"""A model taken apart: the few parts that make up a llama-like decoder, found by what they are.

Owns which trees of modules are known (families decide nothing: llama, mistral, qwen2, qwen3 and smollm3
all pass) and the fusing of linears that share their input. Does not know how a step runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compute_worker.engine.attention import Rule
from compute_worker.engine.kernels import Heads, Kernels, Packed, Segments
from compute_worker.engine.kv import KvCache
from compute_worker.engine.linear import AdaptedLinear
from compute_worker.engine.proof import prove
from compute_worker.engine.table import Table
from lorry.checkpoint import packed
from lorry.errors import UnsupportedModel

_BACKBONE = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
# Between two float32 forms of one norm or activation.
_SAME = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Linears that share their input, as one. weight: [out, in]; bias: [out], float32.

    layers: their indices in the pool.
    """

    weight: Packed
    bias: Tensor | None
    linears: tuple[AdaptedLinear, ...]
    layers: tuple[int, ...]
    segments: Segments

    def take_over(self) -> None:
        """Let the linears free their weights: this is where they are kept."""
        for linear, begin in zip(self.linears, self.segments.columns, strict=True):
            linear.give_up(partial(self._rows, begin, begin + linear.out_features))

    def _rows(self, begin: int, end: int) -> Tensor:
        return self.weight.rows()[begin:end]


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm. weight: [size], float32."""

    weight: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Layer:
    """x += out(attention(qkv(norm(x)))); x += down(silu(gate) * up) of the other norm of x."""

    attention_norm: Norm
    qkv: Product
    heads: Heads
    out: Product
    mlp_norm: Norm
    gate_up: Product
    down: Product


@dataclass(frozen=True, slots=True)
class Parts:
    """A whole model. table: the model's own. entry: its name. shared: whether the head holds the same numbers.

    rotary: (x of the type that is wanted, positions [1, T]) -> cos and sin, [1, T, size] each.
    """

    entry: str
    table: Table
    shared: bool
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    layers: tuple[Layer, ...]
    norm: Norm
    head: Product

    def products(self) -> Iterator[Product]:
        """Those of the layers, four of each."""
        for layer in self.layers:
            yield from (layer.qkv, layer.out, layer.gate_up, layer.down)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights that are kept here."""
        return sum(product.weight.nbytes for product in (*self.products(), self.head))

    def take_over(self) -> None:
        """Let the model's linears, and a table like the head, free their weights: this is where they are kept."""
        for product in (*self.products(), self.head):
            product.take_over()
        if self.shared:
            self.table.give_up(self.head.weight)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a model's linears and attention work with.

    adapted: the linears that were wrapped, in the pool's order. rules: how each layer weighs its keys.
    dtype: that weights are stored in. context: tokens that a request may have.
    """

    adapted: Mapping[str, AdaptedLinear]
    kv: KvCache
    rules: Mapping[int, Rule]
    dtype: torch.dtype
    context: int


def recognise(model: PreTrainedModel, around: Surroundings, kernels: Kernels) -> Parts:
    """The model's parts, their weights copied. Raises UnsupportedModel, by part, where one is not known."""
    taken = _Taking(model, around, kernels)
    backbone = model.base_model
    _expect(model, {model.base_model_prefix, "lm_head"})
    _expect(backbone, _BACKBONE)
    table = backbone.embed_tokens
    if not isinstance(table, Table) or type(table.base) is not nn.Embedding:
        raise _unknown(table)
    layers = [taken.layer(layer) for layer in backbone.layers]
    taken.check_rotary(backbone.rotary_emb)
    prove(model, taken.heads, around.context)
    # Only now, when all of them are known.
    return Parts(
        f"{model.base_model_prefix}.embed_tokens",
        table,
        table.weight is model.lm_head.weight and table.dtype == around.dtype,
        backbone.rotary_emb,
        tuple(make() for make in layers),
        _norm(backbone.norm),
        taken.product([model.lm_head])(),
    )


class _Taking:
    """Takes parts of one model. Methods check at once and answer what makes the part."""

    def __init__(self, model: PreTrainedModel, around: Surroundings, kernels: Kernels) -> None:
        self._config = model.config
        self._index = {id(linear): index for index, linear in enumerate(around.adapted.values())}
        self._around = around
        self._kernels = kernels
        self._sizes: set[int] = set()
        self.heads: list[Heads] = []

    def layer(self, layer: Any) -> Callable[[], Layer]:
        _expect(layer, _LAYER)
        attention, mlp = layer.self_attn, layer.mlp
        _expect(attention, _ATTENTION, _HEAD_NORMS)
        _expect(mlp, _MLP)
        _check_silu(mlp.act_fn)
        heads = self._heads(attention)
        self.heads.append(heads)
        qkv = self.product([attention.q_proj, attention.k_proj, attention.v_proj])
        out, down = self.product([attention.o_proj]), self.product([mlp.down_proj])
        gate_up = self.product([mlp.gate_proj, mlp.up_proj])
        norms = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        return lambda: Layer(norms[0], qkv(), heads, out(), norms[1], gate_up(), down())

    def product(self, linears: Sequence[nn.Module]) -> Callable[[], Product]:
        for linear in linears:
            if not isinstance(linear, AdaptedLinear) or type(linear.base) is not nn.Linear:
                raise _unknown(linear)
            if packed(linear.weight):
                raise UnsupportedModel("quantised weights have no native kernels; torch multiplies them")
        return lambda: self._fuse([linear for linear in linears if isinstance(linear, AdaptedLinear)])

    def _fuse(self, linears: Sequence[AdaptedLinear]) -> Product:
        widths = [linear.out_features for linear in linears]
        columns = tuple(sum(widths[:index]) for index in range(len(widths)))
        weights = [linear.weight.detach() for linear in linears]
        weight = self._kernels.pack(torch.cat(weights) if len(weights) > 1 else weights[0], self._around.dtype)
        segments = Segments(tuple(linear.a for linear in linears), tuple(linear.b for linear in linears), columns)
        layers = tuple(self._index[id(linear)] for linear in linears)
        return Product(weight, _bias(linears), tuple(linears), layers, segments)

    def _heads(self, attention: Any) -> Heads:
        layer = int(attention.layer_idx)
        rule, (keys, values) = self._around.rules[layer], self._around.kv.memory(layer)
        if rule.softcap is not None or rule.sinks is not None or keys.shape != values.shape:
            raise UnsupportedModel(f"{type(attention).__name__}: softcaps, sinks and unequal sizes are not known here")
        _, kv_heads, size = keys.shape
        self._sizes.add(size)
        norms = [_norm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")]
        if any(norm is not None and norm.weight.numel() != size for norm in norms):
            raise UnsupportedModel(f"{type(attention).__name__}: expected a norm of each head")
        return Heads(
            heads=attention.q_proj.out_features // size,
            kv_heads=kv_heads,
            size=size,
            scaling=rule.scaling,
            window=rule.window,
            rotary=bool(getattr(attention, "use_rope", True)),
            keys=keys,
            values=values,
            q_norm=norms[0].weight if norms[0] else None,
            k_norm=norms[1].weight if norms[1] else None,
            eps=norms[0].eps if norms[0] else 0.0,
        )

    def check_rotary(self, rotary: nn.Module) -> None:
        cos, _ = rotary(torch.zeros(1), torch.zeros(1, 1, dtype=torch.int64))
        if self._sizes != {cos.shape[-1]}:
            raise UnsupportedModel(f"{type(rotary).__name__}: expected positions to turn whole heads")


def _expect(module: nn.Module, needed: AbstractSet[str], allowed: AbstractSet[str] = frozenset()) -> None:
    names = {name for name, _ in module.named_children()}
    if not needed <= names or names - needed - allowed:
        raise UnsupportedModel(f"{type(module).__name__}: expected {sorted(needed)} in it, got {sorted(names)}")


def _unknown(module: nn.Module) -> UnsupportedModel:
    return UnsupportedModel(f"{type(module).__name__} is not a part that is known")


def _norm(module: nn.Module) -> Norm:
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or not isinstance(eps, float) or len(list(module.parameters())) != 1:
        raise _unknown(module)
    probe = torch.linspace(-2, 3, weight.numel(), dtype=weight.dtype)[None]
    wide = weight.detach().float()
    expected = functional.rms_norm(probe.float(), wide.shape, wide, eps)
    close = _SAME if weight.dtype == torch.float32 else torch.finfo(weight.dtype).eps * 2
    if not torch.allclose(module(probe).float(), expected, rtol=close, atol=close):
        raise _unknown(module)
    return Norm(wide.contiguous(), eps)


def _check_silu(module: nn.Module) -> None:
    probe = torch.linspace(-8, 8, 33)
    if not torch.allclose(module(probe), functional.silu(probe), rtol=_SAME, atol=_SAME):
        raise _unknown(module)


def _bias(linears: Sequence[AdaptedLinear]) -> Tensor | None:
    biases = [linear.base.bias for linear in linears]
    if all(bias is None for bias in biases):
        return None
    return torch.cat(
        [
            torch.zeros(linear.out_features) if bias is None else bias.detach().float()
            for linear, bias in zip(linears, biases, strict=True)
        ]
    )
