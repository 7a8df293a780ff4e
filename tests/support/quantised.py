"""Tiny bases with quantised weights, as files: torchao's int8 in a folder, and a GGUF file.

Owns how each is made, by the library whose format it is. Does not know what is right: the plain model
that they were made of, and transformers' own reading of them, are for the tests to compare with.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, TorchAoConfig

from tests.support.models import from_config

# Above the rows of a block of GGUF's Q8_0, 32 numbers.
_SIZE, _HIDDEN, _HEAD, _VOCABULARY = 64, 96, 16, 259


def needs_torchao() -> None:
    """Skip the module that calls this where int8 cannot be made or read."""
    if find_spec("torchao") is None:
        reason = "torchao is not on the path: `make test-quantized` puts it there"
        pytest.skip(reason, allow_module_level=True)


def saved_int8(plain: Path, into: Path, granularity: object = None, *, embedding: bool = False) -> Path:
    """The model of a folder with the weights of its linears in int8: by row, where nothing else is said.

    embedding: its input embedding too.
    """
    from torchao.quantization import Int8WeightOnlyConfig, PerRow, quantize_

    kind = Int8WeightOnlyConfig(granularity=granularity or PerRow(), set_inductor_config=False)
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32, quantization_config=TorchAoConfig(kind))
    if embedding:
        quantize_(model.get_input_embeddings(), kind, filter_fn=lambda *_: True)
    model.save_pretrained(into)
    return into


def gguf_llama() -> PreTrainedModel:
    """What `saved_gguf` writes, before it is quantised."""
    return from_config(
        LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=_SIZE,
            intermediate_size=_HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=_HEAD,
            max_position_embeddings=128,
        )
    )


def saved_gguf(file: Path) -> Path:
    """A llama of two layers, its matrices in Q8_0, with a tokenizer of bytes."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_block_count(2)
    writer.add_embedding_length(_SIZE)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(_VOCABULARY)
    _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, parameter in gguf_llama().named_parameters():
        numbers = _turned(name, parameter.detach().numpy())
        kind = gguf.GGMLQuantizationType.Q8_0 if numbers.ndim > 1 else gguf.GGMLQuantizationType.F32
        stem = name.removesuffix(".weight")
        writer.add_tensor(f"{names.get_name(stem)}.weight", gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _turned(name: str, weight: np.ndarray) -> np.ndarray:
    """llama.cpp keeps the two halves of a head of queries or keys in turns."""
    if "q_proj" not in name and "k_proj" not in name:
        return weight
    return weight.reshape(-1, 2, _HEAD // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Printable ASCII is itself, every other token a letter beyond it; one merge, since a list may not be empty."""
    tokens = [chr(33 + index) if index < 94 else chr(256 + index) for index in range(_VOCABULARY - 4)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, "th", "<s>", "</s>", "<pad>"])
    writer.add_token_types([1] * (_VOCABULARY - 3) + [3] * 3)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(_VOCABULARY - 3)
    writer.add_eos_token_id(_VOCABULARY - 2)
    writer.add_pad_token_id(_VOCABULARY - 1)
