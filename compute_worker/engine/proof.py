"""Whether a model's forward is what native kernels make of its parts, by what each module is given and gives.

Owns one forward of a few tokens, at near and far positions, looked at between all modules: a factor, another way to
turn heads or another order of layers shows there where the logits of a short prompt hide it behind bfloat16's
roundings. Does not know kernels, nor which trees of modules are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compute_worker.engine.attention import attending
from compute_worker.engine.hooked import forward
from compute_worker.engine.kernels import Heads
from compute_worker.engine.positions import Attended
from lorry.errors import UnsupportedModel

# Relative to the norm: sums of float32 in another order; of narrower types, as many of their roundings.
_SAME, _ROUNDINGS = 1e-5, 2
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@torch.inference_mode()
def prove(model: PreTrainedModel, heads: Sequence[Heads], context: int) -> None:
    """Raise UnsupportedModel where a llama-like model of these heads computes something else within its context.

    Its tree of modules is known to be a llama's.
    """
    positions = sorted({0, 1, 2, context // 3, context - 2, context - 1} & set(range(context)))
    ids = [(7919 * place + 1) % model.config.vocab_size for place in range(len(positions))]
    seen = _Seen(model)
    with seen.watching(), attending(seen.attended):
        logits = forward(model, ids, positions, range(len(ids)))
    backbone = model.base_model
    cos, sin = backbone.rotary_emb(torch.zeros(1), torch.tensor([positions]))
    stream = seen.came[backbone.embed_tokens]
    for layer, each in zip(backbone.layers, heads, strict=True):
        seen.equal("a layer's input", layer, stream)
        _prove_attention(seen, layer, each, (cos, sin))
        _prove_mlp(seen, layer)
        stream = seen.came[layer]
    seen.equal("the last norm's input", backbone.norm, stream)
    seen.equal("the head's input", model.lm_head, seen.came[backbone.norm])
    if not torch.equal(logits, seen.came[model.lm_head][0]):
        raise seen.unlike("the logits")


def _prove_attention(seen: _Seen, layer: Any, heads: Heads, turns: tuple[Tensor, Tensor]) -> None:
    seen.equal("a norm's input", layer.input_layernorm, seen.given[layer])
    attention, normed = layer.self_attn, seen.came[layer.input_layernorm]
    query, key, value, output = (getattr(attention, name) for name in _ATTENTION)
    for projection in (query, key, value):
        seen.equal("an attention's input", projection, normed)
    weighed = seen.attended.by_layer[int(attention.layer_idx)]
    seen.close("queries", weighed[0], _turned(seen.came[query], heads.q_norm, heads, turns))
    seen.close("keys", weighed[1], _turned(seen.came[key], heads.k_norm, heads, turns))
    seen.close("values", weighed[2], _split(seen.came[value], heads))
    seen.equal("what attention gives", output, weighed[3].flatten(2))
    seen.close("a layer's sum", seen.given[layer.post_attention_layernorm], seen.given[layer] + seen.came[output])


def _prove_mlp(seen: _Seen, layer: Any) -> None:
    mlp, normed = layer.mlp, seen.came[layer.post_attention_layernorm]
    seen.equal("a gate's input", mlp.gate_proj, normed)
    seen.equal("an MLP's input", mlp.up_proj, normed)
    gated = functional.silu(seen.came[mlp.gate_proj]) * seen.came[mlp.up_proj]
    seen.close("what is gated", seen.given[mlp.down_proj], gated)
    seen.close(
        "a layer's output", seen.came[layer], seen.given[layer.post_attention_layernorm] + seen.came[mlp.down_proj]
    )


def _split(flat: Tensor, heads: Heads) -> Tensor:
    """[1, T, heads * size] -> [1, heads, T, size]."""
    return flat.view(*flat.shape[:-1], -1, heads.size).transpose(1, 2).float()


def _turned(flat: Tensor, norm: Tensor | None, heads: Heads, turns: tuple[Tensor, Tensor]) -> Tensor:
    """As Attend of the kernels does it: each head normed, then its halves turned against each other."""
    split = _split(flat, heads)
    if norm is not None:
        split = functional.rms_norm(split, (heads.size,), norm, heads.eps)
    if not heads.rotary:
        return split
    first, second = split.chunk(2, -1)
    return split * turns[0] + torch.cat([-second, first], -1) * turns[1]


class _Seen:
    """What went in and out of every module, and of attention, in a forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.given: dict[nn.Module, Tensor] = {}
        self.came: dict[nn.Module, Tensor] = {}
        self.attended = Attended()

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [module.register_forward_hook(self._look, with_kwargs=True) for module in self._model.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _look(self, module: nn.Module, inputs: tuple[object, ...], named: dict[str, object], output: object) -> None:
        given = inputs[0] if inputs else named.get("hidden_states")
        came = output[0] if isinstance(output, tuple) else output
        if isinstance(given, Tensor) and isinstance(came, Tensor):
            self.given[module], self.came[module] = given, came

    def equal(self, what: str, module: nn.Module, expected: Tensor) -> None:
        """Raise UnsupportedModel where a module was given anything else."""
        if not torch.equal(self.given[module], expected):
            raise self.unlike(what)

    def close(self, what: str, got: Tensor, expected: Tensor) -> None:
        """Raise UnsupportedModel where these are further apart than roundings bring them."""
        tolerance = _SAME if got.dtype == torch.float32 else _ROUNDINGS * torch.finfo(got.dtype).eps
        apart = (got.float() - expected.float()).norm() / expected.float().norm()
        if not apart <= tolerance:
            raise self.unlike(what)

    def unlike(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self._model.config.model_type}: {what} is another than in a llama's layers")
