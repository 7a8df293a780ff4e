"""A tokenizer of bytes: every text has ids, and half a character is no text.

Owns the smallest folder that transformers loads a tokenizer from. 259 ids: bytes, <s>, </s>, <pad>.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>", "<pad>")
VOCABULARY = 256 + len(SPECIAL)


def saved_tokenizer(into: Path, chat_template: str | None = None) -> Path:
    """Write the tokenizer's files beside whatever the folder holds."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=SPECIAL[0], eos_token=SPECIAL[1], pad_token=SPECIAL[2]
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(into)
    return into
