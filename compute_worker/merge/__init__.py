"""Combination of adapters, files in and files out: `TorchCombiner` does it, `check_method` says whether it can."""

from compute_worker.merge.combiner import TorchCombiner
from compute_worker.merge.methods import METHODS, check_method

__all__ = ["METHODS", "TorchCombiner", "check_method"]
