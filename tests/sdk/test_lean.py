"""transformers without what only compiling, training and clusters need, and all of it for who asks later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.models import saved_model
from tests.support.tokenizers import saved_tokenizer

# What is left out, by a module of each.
LEFT_OUT = ("sympy", "accelerate", "torch._dynamo.convert_frame", "torch.distributed.tensor", "torch._inductor")
_ASKED = """
import json, sys
from lorry import lean

lean.load("a-folder")
from compute_worker.app import serve
from compute_worker.engine.build import EngineSettings, build_engine

engine, tokenizer = build_engine(EngineSettings(sys.argv[1], dtype="float32", pool_bytes=1 << 20, kv_bytes=1 << 20))
loaded = [name for name in sys.argv[2:] if name in sys.modules]

import torch, transformers, accelerate

ones = torch.ones(2)
print(json.dumps({
    "vocabulary": tokenizer.vocab_size,
    "loaded": loaded,
    "compiled": torch.compile(lambda x: x + 1, backend="eager")(ones).tolist(),
    "distributed": torch.distributed.is_available(),
    "config": transformers.models.bert.BertConfig().model_type,
    "drawn": bool(torch.nn.Linear(3, 3).weight.any()),
    "unknown": hasattr(transformers.models, "nothing"),
}))
"""


def test_an_engine_is_built_without_them_and_they_are_there_for_who_asks(tmp_path: Path) -> None:
    folder = saved_tokenizer(saved_model("llama", tmp_path))

    done = subprocess.run(
        [sys.executable, "-c", _ASKED, str(folder), *LEFT_OUT], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "vocabulary": 131,
        "loaded": [],
        "compiled": [2.0, 2.0],
        "distributed": True,
        "config": "bert",
        "drawn": True,
        "unknown": False,
    }
