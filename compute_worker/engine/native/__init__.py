"""The kernels in C++, called through ctypes: plain functions over addresses, no torch headers.

Owns finding the library that was built for this CPU, and running programs with it, one call each.
`scripts/build_native.py` builds it; importing torch first lets it share torch's OpenMP threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from compute_worker.engine.kernels import Argmax, Linear, Operation, Step
from compute_worker.engine.memory import Arena
from compute_worker.engine.native import panels
from compute_worker.engine.native.panels import Panels, panels_of
from compute_worker.engine.native.structs import COperation, CStep, structures

BUILT = Path(__file__).parent / "built"
# torch's words for what the CPU can do, and the library built for it.
VARIANTS = {"AVX2": "avx2", "AVX512": "avx512"}
# The one for a CPU that multiplies pairs of bfloat16 in one instruction.
WITH_PAIRS = "avx512bf16"
# From so many tokens on, oneDNN's bfloat16 products are faster where the CPU has units for them (measured on a
# Xeon with AMX: equal at 64, 76 ms against 160 at 512).
_MATRIX_UNITS_FROM = 64


def library(built: Path = BUILT) -> Path | None:
    """The library for this CPU; None where there is none."""
    variant = VARIANTS.get(torch.backends.cpu.get_cpu_capability())
    if variant == "avx512" and torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001 - torch has no public name for it
        variant = WITH_PAIRS
    path = built / f"lorry-{variant}.so"
    return path if variant and path.exists() else None


class NativeKernels:
    """Kernels over a built library.

    For float32 activations and weights in float32 or bfloat16, all in the CPU's memory and contiguous.
    pairs: whether weights that are asked for in bfloat16 meet activations that are rounded to it, which the library
    for CPUs with such products does twice as fast. matrix_units: whether the CPU has units for products of matrices.
    """

    def __init__(self, path: Path, *, pairs: bool, matrix_units: bool) -> None:
        self.name = path.stem.removeprefix("lorry-")
        self._pairs = pairs
        self._matrix_units = matrix_units
        self._library = ctypes.CDLL(str(path))
        for size in (self._library.lorry_panel, self._library.lorry_tokens):
            size.argtypes, size.restype = (), c_int64
        signatures = {"lorry_run": (c_void_p, c_int64, c_void_p, c_int), **panels.SIGNATURES}
        for name, arguments in signatures.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, None
        self.abreast = int(self._library.lorry_tokens())
        self._arena = Arena()

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Panels:
        """See Kernels."""
        packed = panels.pack(self._library, self._arena, weight, dtype, pairs=self._pairs)
        units = self._matrix_units and dtype == torch.bfloat16
        return replace(packed, matrix=weight.to(torch.bfloat16, copy=True)) if units else packed

    def program(self, operations: Sequence[Operation]) -> NativeProgram:
        """See Kernels."""
        return NativeProgram(self._library, operations, pairs=self._pairs, matrix_units=self._matrix_units)


class NativeProgram:
    """Program over a library."""

    def __init__(
        self, library: ctypes.CDLL, operations: Sequence[Operation], *, pairs: bool, matrix_units: bool
    ) -> None:
        self._run = library.lorry_run
        self._operations = operations
        self._matrix_units = matrix_units
        # Units for products of matrices read floats.
        made = structures(operations, pairs=pairs, handed=not matrix_units)
        self._kept = [kept for _, kept in made]
        self._list = (COperation * len(made))(*(each for each, _ in made))
        self._threads = torch.get_num_threads()
        self._z = torch.empty(0)
        widths = (each.x.shape[1] for each in operations if isinstance(each, Linear | Argmax))
        # Words of the widest product's activations in pairs, of one token.
        self._words = -(-max(widths, default=0) // 2) if pairs else 0
        self._rounded = torch.empty(0)

    def run(self, step: Step) -> None:
        """See Program."""
        now = self._now(step)
        if self._matrix_units and step.tokens >= _MATRIX_UNITS_FROM:
            self._run_by_units(step, now)
        elif step.tokens:
            self._run(self._list, len(self._list), ctypes.byref(now), self._threads)

    def _run_by_units(self, step: Step, now: CStep) -> None:
        for index, operation in enumerate(self._operations):
            if isinstance(operation, Linear) and (matrix := panels_of(operation.weight).matrix) is not None:
                product = functional.linear(operation.x[: step.tokens].bfloat16(), matrix).float()
                operation.out[: step.tokens] = product if operation.bias is None else product + operation.bias
            else:
                self._run_one(index, now)

    @property
    def names(self) -> list[str]:
        """What each operation is."""
        return [type(operation).__name__ for operation in self._operations]

    def run_one(self, index: int, step: Step) -> None:
        """Run one operation alone, to see what it takes."""
        self._run_one(index, self._now(step))

    def _run_one(self, index: int, now: CStep) -> None:
        at = ctypes.addressof(self._list) + index * ctypes.sizeof(COperation)
        self._run(at, 1, ctypes.byref(now), self._threads)

    def _now(self, step: Step) -> CStep:
        places, additions = step.places, step.additions
        if self._z.numel() < additions.room:
            self._z = torch.empty(additions.room)
        if self._rounded.numel() < step.tokens * self._words:
            self._rounded = torch.empty(step.tokens * self._words)
        tensors = (places.rows, places.tables, places.cos, places.sin)
        rooms = (additions.table.ctypes.data, self._z.data_ptr(), self._rounded.data_ptr())
        return CStep(step.tokens, len(places.rows), *(tensor.data_ptr() for tensor in tensors), *rooms)
