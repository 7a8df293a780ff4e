"""The same recipe gives the same bytes: in another process, with another number of threads, on another machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from compute_worker.merge.stacked import one_thread
from tests.merge.support import RECIPES, adapter, combine, method
from tests.support.adapters import WEIGHTS

# Large enough that linear algebra on several threads takes its sums in another order.
WIDE = {"model.layers.0.mlp.up_proj": (512, 768, 16), "model.layers.0.mlp.down_proj": (768, 512, 16)}
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import torch
from compute_worker.combination import CombineMethod, CombineSource
from compute_worker.merge import TorchCombiner
from lorry.format.bundle import check_bundle
from lorry.format.digest import digest_of_file

folders, recipes, into = json.loads(sys.stdin.read())
sources = []
for folder, weight in folders:
    weights = Path(folder) / "adapter_model.safetensors"
    sources.append(CombineSource(weights, check_bundle(Path(folder)).facts, digest_of_file(weights), weight))
torch.manual_seed(int(sys.argv[1]))
for name, parameters in recipes.items():
    method = CombineMethod(name, tuple(parameters.items()))
    TorchCombiner(lambda module: None).combine(method, sources, Path(into) / name)
    print(name, hashlib.sha256((Path(into) / name / "adapter_model.safetensors").read_bytes()).hexdigest())
"""


def made_with(threads: int, folders: list[Path], into: Path) -> dict[str, str]:
    """Digest of each method's weights, by a process of its own."""
    asked = json.dumps([[(str(folders[0]), 0.75), (str(folders[1]), -0.5)], RECIPES, str(into)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(threads)],
        input=asked,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    return dict(line.split() for line in done.stdout.splitlines())


def test_neither_the_process_nor_its_threads_nor_torchs_own_seed_change_a_bit(tmp_path: Path) -> None:
    folders = [adapter(tmp_path, seed, WIDE) for seed in (1, 2)]
    alone = made_with(1, folders, tmp_path / "alone")
    assert alone.keys() == RECIPES.keys()
    assert made_with(3, folders, tmp_path / "several") == alone


def test_the_engines_threads_are_not_taken_while_a_merge_keeps_to_one() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread(), ThreadPoolExecutor(1) as fresh:
            assert torch.get_num_threads() == 1
            assert fresh.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# Of what is no linear algebra every step is exactly rounded: these are the bytes of any machine.
EVERYWHERE = {
    "linear": "69e21680e69d1bba",
    "cat": "c596685ce0bdbb67",
    "sum": "c596685ce0bdbb67",
    "magnitude_prune": "0231916e75dc0ccf",
    "ties": "dcf47cf395bf9100",
    "dare_linear": "bf2cb0158776d223",
    "dare_ties": "f3822507d751c520",
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_is_no_linear_algebra_has_the_same_bytes_on_every_machine(name: str, tmp_path: Path) -> None:
    folders = [adapter(tmp_path, 1, alpha=3), adapter(tmp_path, 2, alpha=5)]
    combine(tmp_path / "out", method(name, **RECIPES[name]), folders, (0.75, -0.5))
    assert hashlib.sha256((tmp_path / "out" / WEIGHTS).read_bytes()).hexdigest()[:16] == EVERYWHERE[name]
