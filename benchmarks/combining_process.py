"""One combination in a process of its own: how long it took, and what it took in memory above what was there.

Owns both sides' calls. Ours reads the files, combines and writes the result; PEFT's adapters are loaded
before its clock starts, and its result stays in memory. Linux alone: the kernel keeps the peak.
`python -m benchmarks.combining_process SIDE MODEL METHOD PARAMETERS INTO FOLDER...`.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = (1.0, 0.5, -0.25, 0.75)


def main() -> None:
    """Prints {"seconds": ..., "bytes": ...}."""
    side, model, method, parameters, into, *folders = sys.argv[1:]
    warnings.simplefilter("ignore")
    prepare = {"ours": _ours, "peft": _peft}[side]
    work = prepare(model, method, json.loads(parameters), Path(into), [Path(folder) for folder in folders])
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before, began = _memory("VmRSS"), time.perf_counter()
    work()
    print(json.dumps({"seconds": time.perf_counter() - began, "bytes": _memory("VmHWM") - before}))


def _ours(_: str, method: str, parameters: dict[str, float], into: Path, folders: list[Path]) -> Callable[[], None]:
    from compute_worker.combination import CombineMethod, CombineSource
    from compute_worker.merge import TorchCombiner
    from lorry.format.bundle import WEIGHTS_NAME, check_bundle

    sources = [
        CombineSource(folder / WEIGHTS_NAME, check_bundle(folder).facts, str(folder), weight)
        for folder, weight in zip(folders, WEIGHTS, strict=False)
    ]

    def no_base(module: str) -> NDArray[np.float32]:
        raise RuntimeError(f"expected no DoRA among the sources, got one in {module}")

    how = CombineMethod(method, tuple(parameters.items()))
    return lambda: TorchCombiner(no_base).combine(how, sources, into)


def _peft(model: str, method: str, parameters: dict[str, float], _: Path, folders: list[Path]) -> Callable[[], None]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"), folders[0], adapter_name="a0"
    )
    for number, folder in enumerate(folders[1:], start=1):
        adapted.load_adapter(folder, adapter_name=f"a{number}")
    names = [f"a{number}" for number in range(len(folders))]
    options = {{"rank": "svd_rank"}.get(name, name): value for name, value in parameters.items()}
    return lambda: adapted.base_model.add_weighted_adapter(
        names, list(WEIGHTS[: len(names)]), "merged", combination_type=method, **options
    )


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
