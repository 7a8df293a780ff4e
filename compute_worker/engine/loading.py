"""A base model, loaded: weights in memory, ready to be fingerprinted and wrapped.

Owns which models are refused before their weights are read, and the guarantee that no weight stays
a view of a file. Does not know adapters, KV caches or how a step runs.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from lorry import checkpoint
from lorry.errors import InvalidInput, UnsupportedModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# bfloat16 where the device is fast at it, else float32: the native kernels read weights that bfloat16 holds
# exactly in bfloat16 all the same, so that rounding adapters, keys and values is all that would be left to gain.
AUTO = "auto"
# Linux tells which addresses are whose, ascending; 0 is the inode of what is no file.
_MAPS = Path("/proc/self/maps")
# Rope whose frequencies depend on the longest position of a batch: one request would change another.
_BATCH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


def stored_as(dtype: str, device: str) -> torch.dtype:
    """The type in which a base, adapters, keys and values are kept. Raises InvalidInput."""
    if dtype == AUTO:
        narrow = _device(device).type != "cpu" or has_bfloat16()
        return torch.bfloat16 if narrow else torch.float32
    if dtype not in _DTYPES:
        raise InvalidInput(f"expected a dtype of {', '.join((AUTO, *_DTYPES))}, got {dtype!r}")
    return _DTYPES[dtype]


def load_base(path_or_id: str, device: str, dtype: str) -> PreTrainedModel:
    """A causal language model in eval mode, without gradients, on `device`, to be stored as `dtype` (see stored_as).

    Its own products are of that type where the device is fast at them, else of float32; quantised weights stay as
    they are, a GGUF file's are unpacked. Raises UnsupportedModel for an architecture or weights that the engine
    cannot reproduce, InvalidInput where there is no model, or no such device or type, MissingExtra.
    """
    target = _device(device)
    config = _config(path_or_id)
    refuse_unsupported(config)
    logging.disable_progress_bar()
    try:
        kind = _computed_in(dtype, target)
        model = checkpoint.load(
            path_or_id, config=config, dtype=kind, attn_implementation="eager", use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise InvalidInput(f"expected safetensors weights of a language model in {path_or_id}: {error}") from error
    refuse_unhookable(model)
    if target.type == "cpu":  # moving to another device copies anyway
        _own(model)
    return model.to(target).eval().requires_grad_(requires_grad=False)


def refuse_unsupported(config: PretrainedConfig) -> None:
    """Raise UnsupportedModel, by name, for what a configuration alone gives away."""
    kind = config.model_type
    _refuse_quantised(config)
    if config.is_encoder_decoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModel(f"expected a decoder-only causal language model, got {kind}")
    rope = _rope_types(getattr(config, "rope_parameters", None)) & _BATCH_DEPENDENT_ROPE
    if rope:
        raise UnsupportedModel(
            f"{kind}: rope of type {min(rope)} depends on the other requests of a batch and is not served"
        )


def _refuse_quantised(config: PretrainedConfig) -> None:
    kind, form = config.model_type, checkpoint.quantization(config)
    if form != checkpoint.PLAIN and not form.startswith(checkpoint.INT8):
        raise UnsupportedModel(
            f"{kind}: expected plain weights, a GGUF file or torchao's int8 weight-only, got weights quantised as "
            f"{form}; save the model dequantised"
        )


def refuse_unhookable(model: PreTrainedModel) -> None:
    """Raise UnsupportedModel where attention does not go through AttentionInterface, or is not all there is.

    The first would only be logged by transformers, and the output would be silently wrong. Likewise where an
    embedding is quantised.
    """
    kind = model.config.model_type
    if not model._can_set_attn_implementation():  # noqa: SLF001 - its only public form logs a warning and goes on
        raise UnsupportedModel(f"{kind}: its attention does not go through transformers' AttentionInterface")
    if checkpoint.packed(model.get_input_embeddings().weight):
        raise UnsupportedModel(f"{kind}: a quantised embedding would be unpacked whole in every step; quantise linears")
    if model._is_stateful or any(isinstance(module, nn.Conv1d) for module in model.modules()):  # noqa: SLF001 - likewise
        raise UnsupportedModel(f"{kind}: recurrent and convolutional layers keep a state that is not served")


def _config(path_or_id: str) -> PretrainedConfig:
    place, naming = checkpoint.located(path_or_id)
    try:
        return AutoConfig.from_pretrained(place, **naming)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"expected a Hugging Face folder, GGUF file or hub id, got {path_or_id!r}: {error}"
        ) from error


def _rope_types(parameters: object) -> set[str]:
    """Types of the one rope, or of the rope of each kind of layer."""
    if not isinstance(parameters, dict):
        return set()
    inner = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(rope.get("rope_type")) for rope in (parameters, *inner)}


def _computed_in(dtype: str, device: torch.device) -> torch.dtype:
    stored = stored_as(dtype, device.type)
    slow = stored == torch.bfloat16 and device.type == "cpu" and not has_bfloat16()
    return torch.float32 if slow else stored


def has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 products; without, oneDNN's are slower than float32's, 10 times with AVX2.

    With AVX-512 alone, oneDNN claims them, and widens.
    """
    cpu = torch.cpu
    widens = cpu._is_avx512_supported() and not cpu._is_avx512_bf16_supported()  # noqa: SLF001 - no public names
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and not widens  # noqa: SLF001 - no public name


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise InvalidInput(f"device {name!r} cannot be used: {error}") from error
    return device


def _own(model: nn.Module) -> None:
    """Copy what is a view of the mapped file, which would end the process where it is cut short later.

    What was cast on the way from there has memory of its own.
    """
    begins, ends = _mapped()
    for tensor in (*model.parameters(), *model.buffers()):
        for part in checkpoint.parts(tensor):
            at = bisect_right(begins, part.data_ptr()) - 1
            if at >= 0 and part.data_ptr() < ends[at]:
                part.data = part.data.clone()


def _mapped() -> tuple[list[int], list[int]]:
    """Where files lie in memory: first addresses, and those behind the last. All of memory where nobody tells."""
    if not _MAPS.exists():
        return [0], [1 << 64]
    fields = (line.split(maxsplit=5) for line in _MAPS.read_text().splitlines())
    ranges = [place.split("-") for place, _, _, _, inode, *_ in fields if inode != "0"]
    return [int(begin, 16) for begin, _ in ranges], [int(end, 16) for _, end in ranges]
