"""The smallest valid PEFT adapters and the bases that they fit, made with numpy alone.

Owns the layout that stock PEFT writes (adapter_config.json, adapter_model.safetensors). Equal
arguments give equal bytes. Does not know torch, PEFT or any service.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.digest import digest_of

# name -> (in_features, out_features, rank)
Modules = Mapping[str, tuple[int, int, int]]
MODULES: dict[str, tuple[int, int, int]] = {
    "model.layers.0.self_attn.q_proj": (8, 8, 2),
    "model.layers.0.mlp.down_proj": (16, 8, 2),
}
BASE_NAME = "tiny-base"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def write_adapter(directory: Path, modules: Modules = MODULES, **options: Any) -> Path:
    """Write the two files of `adapter_bytes(modules, **options)` into `directory`; answers it."""
    config, weights = adapter_bytes(modules, **options)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_bytes(config)
    (directory / WEIGHTS).write_bytes(weights)
    return directory


def adapter_bytes(  # noqa: PLR0913 - a builder: every option is a keyword with a default
    modules: Modules = MODULES,
    *,
    seed: int = 0,
    alpha: float = 4,
    rslora: bool = False,
    dora: bool = False,
    lora_bias: bool = False,
    dtype: str = "F32",
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    base_name: str | None = BASE_NAME,
    scale: float = 0.1,
    config: Mapping[str, object] | None = None,
) -> tuple[bytes, bytes]:
    """(adapter_config.json, adapter_model.safetensors).

    dtype: F32, F16 or BF16. scale: standard deviation of the entries. rank_pattern: by default one
    entry for each module whose rank is not the first one's. config: keys put over the others.
    """
    rank = next(iter(modules.values()))[2]
    odd = {name: own for name, (_, _, own) in modules.items() if own != rank}
    fields = peft_config(
        r=rank,
        lora_alpha=alpha,
        use_rslora=rslora,
        use_dora=dora,
        lora_bias=lora_bias,
        rank_pattern=dict(odd if rank_pattern is None else rank_pattern),
        alpha_pattern=dict(alpha_pattern or {}),
        base_model_name_or_path=base_name,
        target_modules=sorted(modules),
    )
    arrays = tensors(modules, seed=seed, dora=dora, lora_bias=lora_bias, scale=scale)
    return json_bytes(fields | dict(config or {})), safetensors_bytes(encode(arrays, dtype))


def peft_config(**fields: object) -> dict[str, object]:
    """A configuration with every field that PEFT 0.21 writes; `fields` put over the defaults."""
    nothing = (
        "alora_invocation_tokens arrow_config auto_mapping base_model_name_or_path corda_config eva_config"
        " exclude_modules kasa_config layer_replication layers_pattern layers_to_transform lora_ga_config"
        " megatron_config modules_to_save monteclora_config revision target_parameters trainable_token_indices"
        " use_bdlora velora_config"
    )
    no = "ensure_weight_tying fan_in_fan_out lora_bias use_dora use_qalora use_rslora"
    return {
        **dict.fromkeys(nothing.split()),
        **dict.fromkeys(no.split(), False),
        "alpha_pattern": {},
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "loftq_config": {},
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "megatron_core": "megatron.core",
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": 2,
        "rank_pattern": {},
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
        **fields,
    }


def json_bytes(value: object) -> bytes:
    """As PEFT writes it: sorted, indented."""
    return json.dumps(value, indent=2, sort_keys=True).encode()


def tensors(
    modules: Modules, *, seed: int = 0, dora: bool = False, lora_bias: bool = False, scale: float = 0.1
) -> dict[str, np.ndarray]:
    """Random float32 tensors under the names that PEFT saves. Every B is non-zero."""
    draw = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for name, (in_features, out_features, rank) in modules.items():
        prefix = f"base_model.model.{name}"
        out[f"{prefix}.lora_A.weight"] = draw.normal(0, scale, (rank, in_features)).astype(np.float32)
        out[f"{prefix}.lora_B.weight"] = draw.normal(0, scale, (out_features, rank)).astype(np.float32)
        if lora_bias:
            out[f"{prefix}.lora_B.bias"] = draw.normal(0, scale, out_features).astype(np.float32)
        if dora:
            out[f"{prefix}.lora_magnitude_vector"] = draw.uniform(0.5, 1.5, out_features).astype(np.float32)
    return out


# A tensor as a file holds it: safetensors' dtype name, shape, bytes.
Raw = tuple[str, tuple[int, ...], bytes]


def encode(arrays: Mapping[str, np.ndarray], dtype: str = "F32") -> dict[str, Raw]:
    """Float32 arrays in another dtype (BF16 by rounding to nearest even)."""
    return {name: (dtype, array.shape, _as(array, dtype)) for name, array in arrays.items()}


def _as(array: np.ndarray, dtype: str) -> bytes:
    if dtype != "BF16":
        return array.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def safetensors_bytes(raw: Mapping[str, Raw], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file: tensors in order of name, header padded to 8 bytes as the library does."""
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name in sorted(raw):
        dtype, shape, data = raw[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    return with_header(json.dumps(header, separators=(",", ":")).encode(), (raw[name][2] for name in sorted(raw)))


def with_header(header: bytes, data: Iterable[bytes] = ()) -> bytes:
    """Length, header as it is (padded with spaces to 8 bytes), data."""
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + b"".join(data)


def base_for(modules: Modules = MODULES, *, vocab_size: int = 32, seed: int = 0, **fields: Any) -> BaseFacts:
    """A base that has these modules as linears, besides an embedding and an output head of width 8."""
    table = [BaseModule(name, ModuleKind.LINEAR, width, out) for name, (width, out, _) in modules.items()]
    table.append(BaseModule("model.embed_tokens", ModuleKind.EMBEDDING, vocab_size, 8))
    if "lm_head" not in modules:
        table.append(BaseModule("lm_head", ModuleKind.LINEAR, 8, vocab_size))
    facts: dict[str, Any] = {
        "base_id": digest_of(f"weights {seed}".encode()),
        "architecture_id": digest_of(b"architecture"),
        "model_type": "llama",
        "vocab_size": vocab_size,
        "modules": tuple(sorted(table, key=lambda module: module.name)),
    }
    return BaseFacts(**facts | fields)
