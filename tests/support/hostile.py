"""Bundles that an enemy, or bad luck, could send: each by name, with the error that it must end in.

Owns the corpus behind the promises I5 and I7: whoever loads adapters runs over HOSTILE. Each case
writes one folder, which `lorry.format.bundle.check_bundle` must refuse. Does not know the services.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorry.errors import InvalidAdapter, LorryError, UnsupportedAdapter
from tests.support.adapters import (
    CONFIG,
    WEIGHTS,
    Raw,
    encode,
    json_bytes,
    peft_config,
    safetensors_bytes,
    tensors,
    with_header,
    write_adapter,
)
from tests.support.hostile_kinds import REFUSED, WRONG

MODULE = "model.layers.0.self_attn.q_proj"
_MODULES = {MODULE: (8, 8, 2)}
_PREFIX = f"base_model.model.{MODULE}"
_A, _B = f"{_PREFIX}.lora_A.weight", f"{_PREFIX}.lora_B.weight"
# Backtracks for longer than anybody waits, if it is ever compiled and matched.
REGEX_BOMB = "(a+)+" * 6 + "$"
_WIDE = 1 << 62

Write = Callable[[Path], object]


@dataclass(frozen=True)
class HostileCase:
    """A folder that must be refused: `write` fills an empty one, `error` is the class it ends in."""

    name: str
    write: Write
    error: type[LorryError]

    def __str__(self) -> str:
        return self.name


def _config(**changes: object) -> Write:
    return lambda directory: write_adapter(directory, _MODULES, config=changes)


def _config_bytes(data: bytes) -> Write:
    def write(directory: Path) -> None:
        write_adapter(directory, _MODULES)
        (directory / CONFIG).write_bytes(data)

    return write


def _weights(data: bytes) -> Write:
    def write(directory: Path) -> None:
        write_adapter(directory, _MODULES)
        (directory / WEIGHTS).write_bytes(data)

    return write


def _tensors(changes: Mapping[str, Raw | None]) -> Write:
    raw: dict[str, Raw | None] = {**encode(tensors(_MODULES)), **changes}
    return _weights(safetensors_bytes({name: value for name, value in raw.items() if value is not None}))


def _header(header: object, size: int = 0) -> Write:
    return _weights(with_header(json.dumps(header).encode(), [bytes(size)]))


def _entry(shape: list[object], begin: object, end: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _beside(name: str, data: bytes = b"x") -> Write:
    def write(directory: Path) -> None:
        write_adapter(directory, _MODULES)
        (directory / name).write_bytes(data)

    return write


def _link_out(directory: Path) -> None:
    write_adapter(directory, _MODULES)
    (directory / "README.md").symlink_to("/etc/hostname")


def _pipe(directory: Path) -> None:
    write_adapter(directory, _MODULES)
    (directory / WEIGHTS).unlink()
    os.mkfifo(directory / WEIGHTS)


def _folder_as_file(directory: Path) -> None:
    write_adapter(directory, _MODULES)
    (directory / "tokenizer.json").mkdir()


def _without(name: str) -> Write:
    def write(directory: Path) -> None:
        write_adapter(directory, _MODULES)
        (directory / name).unlink()

    return write


def _cut(name: str, keep: Callable[[int], int]) -> Write:
    def write(directory: Path) -> None:
        write_adapter(directory, _MODULES)
        data = (directory / name).read_bytes()
        (directory / name).write_bytes(data[: keep(len(data))])

    return write


def f32(*shape: int, fill: float = 0.0) -> Raw:
    """A float32 tensor of one value."""
    return "F32", shape, np.full(shape, fill, "<f4").tobytes()


def _half(pattern: int, dtype: str) -> Raw:
    return dtype, (2, 8), struct.pack("<16H", *([0] * 15), pattern)


def _duplicate_tensor() -> bytes:
    entry = json.dumps(_entry([2, 8], 0, 64))
    return f'{{"{_A}":{entry},"{_A}":{entry}}}'.encode()


def _invalid(cases: Mapping[str, Write]) -> list[HostileCase]:
    return [HostileCase(name, write, InvalidAdapter) for name, write in cases.items()]


def _unsupported(cases: Mapping[str, Write]) -> list[HostileCase]:
    return [HostileCase(name, write, UnsupportedAdapter) for name, write in cases.items()]


_TENSORS = {
    "stray-base-weight": _tensors({"base_model.model.model.norm.weight": f32(8)}),
    "stray-bare-weight": _tensors({"lm_head.weight": f32(8, 8)}),
    "stray-own-base-weight": _tensors({f"{_PREFIX}.weight": f32(8, 8)}),
    "stray-original-module": _tensors({"base_model.model.lm_head.original_module.lora_A.weight": f32(2, 8)}),
    "another-adapters-name": _tensors({f"{_PREFIX}.lora_A.victim.weight": f32(2, 8)}),
    "another-adapter-inside": _tensors(
        {f"{_PREFIX}.lora_A.victim.lora_A.weight": f32(2, 8), f"{_PREFIX}.lora_A.victim.lora_B.weight": f32(8, 2)}
    ),
    "path-with-slashes": _tensors({"base_model.model.../../x.lora_A.weight": f32(2, 8)}),
    "path-with-nul": _tensors({"base_model.model.x\0.lora_A.weight": f32(2, 8)}),
    "path-endless": _tensors({f"base_model.model.{'x' * 5000}.lora_A.weight": f32(2, 8)}),
    "a-without-b": _tensors({_B: None}),
    "b-without-a": _tensors({_A: None}),
    "no-tensors": _tensors({_A: None, _B: None}),
    "not-a-target": _tensors(
        {name.replace("q_proj", "k_proj"): f32(*shape) for name, shape in ((_A, (2, 8)), (_B, (8, 2)))}
    ),
    "nan": _tensors({_A: f32(2, 8, fill=float("nan"))}),
    "infinity": _tensors({_B: f32(8, 2, fill=float("-inf"))}),
    "nan-f16-last-value": _tensors({_A: _half(0x7E01, "F16")}),
    "infinity-bf16-last-value": _tensors({_A: _half(0xFF80, "BF16")}),
    "integers": _tensors({_A: ("I32", (2, 8), bytes(64))}),
    "complex": _tensors({_A: ("C64", (2, 8), bytes(128))}),
    "doubles": _tensors({_A: ("F64", (2, 8), bytes(128))}),
    "fp8": _tensors({_A: ("F8_E4M3", (2, 8), bytes(16))}),
    "rank-not-as-configured": _tensors({_A: f32(3, 8), _B: f32(8, 3)}),
    "rank-of-a-and-b-differ": _tensors({_B: f32(8, 3)}),
    "three-dimensions": _tensors({_A: f32(2, 4, 2)}),
    "no-dimension": _tensors({_A: f32()}),
    "zero-features": _tensors({_A: f32(2, 0)}),
    "unasked-magnitude": _tensors({f"{_PREFIX}.lora_magnitude_vector": f32(8, fill=1)}),
    "unasked-bias": _tensors({f"{_PREFIX}.lora_B.bias": f32(8)}),
}
_HEADERS = {
    "empty-file": _weights(b""),
    "header-length-alone": _weights(struct.pack("<Q", 100)),
    "header-bomb": _weights(struct.pack("<Q", 100_000_000) + b"{" + b" " * 1000),
    "header-length-maximal": _weights(struct.pack("<Q", (1 << 64) - 1)),
    "header-not-json": _weights(with_header(b"{" + b"\xff" * 15)),
    "header-nesting-bomb": _weights(with_header(b'{"a":' + b"[" * 100_000)),
    "header-escape-bomb": _weights(with_header(b"{" + b'\\"' * 500_000)),
    "header-list-bomb": _weights(with_header(b'{"a":[' + b"[]," * 300_000 + b"[]]}")),
    "header-too-many-tensors": _header({f"t{i}": _entry([0], 0, 0) for i in range(5000)}),
    "header-unknown-key": _header({_A: _entry([2, 8], 0, 64) | {"file": "../secret"}}, 64),
    "header-metadata-not-strings": _header({"__metadata__": {"format": ["pt"]}}),
    "header-surrogate-name": _header({"\ud800": _entry([2, 8], 0, 64)}, 64),
    "duplicate-tensor": _weights(with_header(_duplicate_tensor(), [bytes(64)])),
    "overlapping-offsets": _header({_A: _entry([2, 8], 0, 64), _B: _entry([8, 2], 32, 96)}, 96),
    "gap-in-offsets": _header({_A: _entry([2, 8], 0, 64), _B: _entry([8, 2], 72, 136)}, 136),
    "negative-offset": _header({_A: _entry([2, 8], -64, 0)}),
    "backward-offsets": _header({_A: _entry([2, 8], 64, 0)}, 64),
    "offset-not-an-integer": _header({_A: _entry([2, 8], 0, 64.0)}, 64),
    "offset-beyond-file": _header({_A: _entry([1 << 20, 1 << 10], 0, 1 << 32)}, 64),
    "bytes-behind-the-tensors": _header({_A: _entry([2, 8], 0, 64), _B: _entry([8, 2], 64, 128)}, 4096),
    "shape-product-wraps-to-size": _header({_A: _entry([_WIDE, 8], 0, 0)}),
    "shape-of-booleans": _header({_A: _entry([True, True], 0, 4)}, 4),
    "shape-of-a-thousand": _header({_A: _entry([1] * 1000, 0, 4)}, 4),
    "weights-cut": _cut(WEIGHTS, lambda size: size - 1),
    "weights-half": _cut(WEIGHTS, lambda size: size // 2),
}
_CONFIGS = {
    "config-empty": _config_bytes(b""),
    "config-not-an-object": _config_bytes(b"[]"),
    "config-not-utf8": _config_bytes(b'{"peft_type": "LORA", "x": "\xff"}'),
    "config-huge": _config_bytes(json_bytes(peft_config()) + b" " * (1 << 20)),
    "config-nesting-bomb": _config_bytes(b'{"eva_config":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "config-duplicate-key": _config_bytes(json_bytes(peft_config()).replace(b'"r": 2', b'"r": 2, "r": 4096')),
    "config-half": _cut(CONFIG, lambda size: size // 2),
    "alpha-nan": _config_bytes(json_bytes(peft_config(lora_alpha=float("nan")))),
    "alpha-infinite": _config_bytes(json_bytes(peft_config()).replace(b'"lora_alpha": 4', b'"lora_alpha": 1e999')),
    "alpha-huge": _config(lora_alpha=1e300),
    "alpha-text": _config(lora_alpha="4"),
    "alpha-missing": _config_bytes(json_bytes({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})),
    "rank-zero": _config(r=0),
    "rank-negative": _config(r=-2),
    "rank-boolean": _config(r=True),
    "rank-endless": _config_bytes(json_bytes(peft_config()).replace(b'"r": 2', b'"r": ' + b"9" * 5000)),
    "rank-pattern-regex-bomb": _config(rank_pattern={REGEX_BOMB: 2}),
    "rank-pattern-wildcard": _config(rank_pattern={".*": 2}),
    "alpha-pattern-regex": _config(alpha_pattern={r"layers\.0": 4}),
    "alpha-pattern-infinite": _config(alpha_pattern={"q_proj": 1e200}),
    "rank-pattern-list": _config(rank_pattern=["q_proj"]),
    "target-modules-regex-bomb-in-a-list": _config(target_modules=[REGEX_BOMB]),
    "target-modules-number": _config(target_modules=7),
    "dora-without-magnitude": _config(use_dora=True),
    "lora-bias-without-bias": _config(lora_bias=True),
    "dora-flag-text": _config(use_dora="false"),
    "peft-type-missing": _config(peft_type=None),
    "base-name-endless": _config(base_model_name_or_path="x" * 10_000),
}
_FILES = {
    "pickle": _beside("adapter_model.bin", b"\x80\x04."),
    "pickle-of-the-trainer": _beside("training_args.bin"),
    "pickle-disguised": _beside("Optimizer.PT"),
    "unexpected-file": _beside("modeling_evil.py", b"import os"),
    "hidden-file": _beside(".env"),
    "link-out-of-the-folder": _link_out,
    "pipe-as-weights": _pipe,
    "folder-as-file": _folder_as_file,
    "no-config": _without(CONFIG),
    "no-weights": _without(WEIGHTS),
}
_KINDS = {
    "other-peft-type": _config(peft_type="IA3"),
    "init-pissa": _config(init_lora_weights="pissa"),
    "init-pissa-niter": _config(init_lora_weights="pissa_niter_16"),
    "init-olora": _config(init_lora_weights="olora"),
    "init-corda": _config(init_lora_weights="corda"),
    "init-lora-ga": _config(init_lora_weights="lora_ga"),
    "init-loftq": _config(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
    "init-unknown": _config(init_lora_weights="new_and_shiny"),
    "init-list": _config(init_lora_weights=["pissa"]),
    "unknown-key": _config(use_new_maths=True),
    "unknown-key-zero": _config(new_scaling=0),
    "layer-replication": _config(layer_replication=[[0, 1], [0, 1]]),
    "megatron": _config(megatron_config={"tensor_model_parallel_size": 2}),
    "qalora": _config(use_qalora=True),
    "bdlora": _config(use_bdlora={"nblocks": 2}),
    "arrow": _config(arrow_config={"top_k": 3}),
    "kasa": _config(kasa_config={"beta": 0.1}),
    "monteclora": _config(monteclora_config={"num_samples": 8}),
    "velora": _config(velora_config={"num_groups": 64}),
    "auto-mapping-of-code": _config(auto_mapping={"AutoModel": "evil.Model"}),
}

HOSTILE: list[HostileCase] = [
    *_invalid(_TENSORS),
    *_invalid(_HEADERS),
    *_invalid(_CONFIGS),
    *_invalid(_FILES),
    *_invalid(WRONG),
    *_unsupported(_KINDS),
    *_unsupported(REFUSED),
]
