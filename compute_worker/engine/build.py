"""From settings to an engine and its tokenizer.

Owns the order: tokenizer and model from the same place, torch's threads before the first product.
Does not know where settings come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compute_worker.contract import Engine
from compute_worker.engine import admission
from compute_worker.engine.engine import Budgets, TransformersEngine
from compute_worker.engine.loading import AUTO, load_base, stored_as
from compute_worker.engine.memory import give_back
from compute_worker.engine.tokenizer import HfTokenizer
from compute_worker.wording import Tokenizer


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """model: a folder or hub id. device: torch's name. dtype: that it is stored in, see stored_as.

    Budgets in bytes; max_context in tokens, 0 for what the model was made for; threads of torch, 0
    for torch's own choice. executor: `auto`, or `transformers` for the general one.
    """

    model: str
    device: str = "cpu"
    dtype: str = AUTO
    pool_bytes: int = 320 << 20
    kv_bytes: int = 512 << 20
    max_context: int = 0
    threads: int = 0
    executor: str = admission.AUTO


def build_engine(settings: EngineSettings) -> tuple[Engine, Tokenizer]:
    """Load a base and check that it is served exactly. Raises UnsupportedModel, InvalidInput."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    model = load_base(settings.model, settings.device, settings.dtype)
    tokenizer = HfTokenizer.load(settings.model, model.config)
    budgets = Budgets(settings.pool_bytes, settings.kv_bytes, settings.max_context)
    stored = stored_as(settings.dtype, settings.device)
    engine = TransformersEngine(model, budgets, settings.executor, stored)
    tokenizer.limit(engine.limits.max_context)
    give_back()
    return engine, tokenizer
