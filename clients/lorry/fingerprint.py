"""The fingerprint of a base model: which function it computes, whatever file or type it came from.

Owns base_id, architecture_id and the module table of a model that transformers loaded and nobody
wrapped yet. Needs torch, so nothing else of the SDK imports it but the commands that register a
base. Does not know how a model is loaded or served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorry.checkpoint import dense, quantization
from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.extras import STACKED
from lorry.format.manifest import canonical_json

# Rows of each matrix that are hashed: noise of 0.1 % on a matrix changes at least one bfloat16 value of
# 8 rows with certainty for any real width, and 8 rows of every matrix of a 135M model take 0.04 s.
_ROWS = 8
# Knuth's multiplicative hash: 2^32 / golden ratio. Spreads the rows over the whole matrix.
_SPREAD = 2_654_435_761

# Fields of a configuration that change the function. An allow-list, so that a new release of
# transformers that adds a field does not make another base of every model.
# fmt: off
_FIELDS = frozenset(
    (
        "model_type", "vocab_size", "hidden_size", "n_embd", "intermediate_size", "n_inner", "ffn_dim",
        "moe_intermediate_size", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head",
        "num_key_value_heads", "head_dim", "multi_query", "word_embed_proj_dim", "tie_word_embeddings", "hidden_act",
        "hidden_activation", "activation_function", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon",
        "norm_epsilon", "qk_layernorm", "use_qk_norm", "do_layer_norm_before", "_remove_final_layer_norm",
        "layer_norm_elementwise_affine", "use_parallel_residual", "rope_parameters", "rope_interleave",
        "no_rope_layers", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
        "attention_chunk_size", "use_bidirectional_attention", "attn_logit_softcapping", "final_logit_softcapping",
        "query_pre_attn_scalar", "embedding_multiplier", "residual_multiplier", "attention_multiplier",
        "logits_scaling", "logit_scale", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "attention_bias",
        "mlp_bias", "use_bias", "use_qkv_bias", "enable_bias", "num_local_experts", "num_experts", "n_routed_experts",
        "n_shared_experts", "num_experts_per_tok", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor",
        "first_k_dense_replace", "decoder_sparse_step", "mlp_only_layers", "q_lora_rank", "kv_lora_rank",
        "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "swiglu_alpha", "swiglu_limit",
    )
)
# fmt: on


def base_facts(model: nn.Module) -> BaseFacts:
    """Identity and module table of a loaded model, before anything is wrapped.

    The same for bfloat16, float16 and float32 loads of the same weights, in one file or in shards; quantised
    ones are taken as the values that they stand for, so that they are another base of the same architecture.
    base_id covers the architecture and, of each parameter (tied ones once), all of a vector or 8 rows
    of a matrix, as float32 rounded to bfloat16.
    """
    config = model.config.to_dict()  # type: ignore[operator,union-attr] # transformers' models carry their config
    parameters = dict(sorted(model.named_parameters()))
    shapes = [(name, list(parameter.shape)) for name, parameter in parameters.items()]
    architecture = canonical_json({"config": _function(config), "shapes": shapes}).encode()
    digest = hashlib.sha256(architecture)
    for name, parameter in parameters.items():
        digest.update(name.encode() + b"\0" + _sample(name, parameter))
    return BaseFacts(
        base_id=f"sha256:{digest.hexdigest()}",
        architecture_id=f"sha256:{hashlib.sha256(architecture).hexdigest()}",
        model_type=config["model_type"],
        vocab_size=config["vocab_size"],
        modules=_modules(model),
        quantization=quantization(model.config),
    )


def _function(config: dict[str, object]) -> dict[str, object]:
    """The fields that change the function; unset and off are one, as are 1 and 1.0."""
    return {
        name: _plain(value)
        for name, value in config.items()
        if name in _FIELDS and value is not None and value is not False
    }


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _sample(name: str, parameter: torch.Tensor) -> bytes:
    tensor = dense(parameter.detach())
    if tensor.dim() > 1:
        tensor = tensor[torch.tensor(_rows(name, tensor.shape[0]), device=tensor.device)]
    rounded = tensor.to("cpu", torch.float32).to(torch.bfloat16).contiguous()
    return rounded.view(torch.uint8).numpy().tobytes()


def _rows(name: str, count: int) -> list[int]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return sorted({(seed + index * _SPREAD) % count for index in range(_ROWS)})


def _modules(model: nn.Module) -> tuple[BaseModule, ...]:
    found = list(model.named_modules(remove_duplicate=False))
    modules = [module for module in (_module(name, module) for name, module in found) if module]
    modules += [stack for name, module in found for stack in _stacks(name, module)]
    return tuple(sorted(modules, key=lambda module: module.name))


def _module(name: str, module: nn.Module) -> BaseModule | None:
    # By exact type: routers subclass Linear and return tuples.
    if type(module) is nn.Linear:
        return BaseModule(name, ModuleKind.LINEAR, module.in_features, module.out_features)
    if isinstance(module, Conv1D):
        features = module.weight.shape
        return BaseModule(name, ModuleKind.CONV1D, features[0], features[1])
    if isinstance(module, nn.Embedding):
        return BaseModule(name, ModuleKind.EMBEDDING, module.num_embeddings, module.embedding_dim)
    return None


def _stacks(name: str, module: nn.Module) -> Iterator[BaseModule]:
    """The parameters that stack the weights of experts: [experts, out, in], or turned where the module says so."""
    for parameter, weight in module.named_parameters(recurse=False):
        if parameter in STACKED and weight.dim() == 3:  # noqa: PLR2004 - experts and two sides
            experts, rows, columns = weight.shape
            sides = (rows, columns) if getattr(module, "is_transposed", False) else (columns, rows)
            yield BaseModule(f"{name}.{parameter}", ModuleKind.EXPERTS, *sides, experts)
