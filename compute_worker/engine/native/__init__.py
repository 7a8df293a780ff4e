"""The kernels in C++, called through ctypes: plain functions over addresses, no torch headers.

Owns finding the library that was built for this CPU, and handing it addresses. `scripts/build_native.py`
builds it; importing torch first lets it share torch's OpenMP threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int, c_long, c_void_p
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from compute_worker.engine.kernels import Cells, Heads, Places, Segments

BUILT = Path(__file__).parent / "built"
# torch's words for what the CPU can do, and the library built for it.
VARIANTS = {"AVX2": "avx2", "AVX512": "avx512"}
# From so many tokens on, oneDNN's bfloat16 products are faster where the CPU has units for them (measured on a
# Xeon with AMX: equal at 64, 76 ms against 160 at 512).
_MATRIX_UNITS_FROM = 64
_SIGNATURES = {
    "lorry_linear": (c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_long, c_long, c_long, c_int),
    "lorry_argmax": (c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_long, c_long, c_long, c_int),
    "lorry_add_norm": (c_void_p, c_void_p, c_void_p, c_float, c_void_p, c_long, c_long, c_int),
    "lorry_silu_mul": (c_void_p, c_void_p, c_long, c_long, c_int),
    "lorry_adapt": (c_void_p, c_void_p, c_void_p, c_void_p, c_long, c_void_p, c_int, c_long, c_long, c_int),
    "lorry_attend": (c_void_p, c_void_p, c_void_p, c_int, c_int),
}


class _Attention(ctypes.Structure):
    """`Attention` of attention.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("cos", "sin", "q_norm", "k_norm", "keys", "values")),
        *((name, c_void_p) for name in ("slots", "positions", "first_block", "tables")),
        *((name, c_long) for name in ("tokens", "heads", "kv_heads", "size", "block", "window")),
        ("scaling", c_float),
        ("eps", c_float),
    )


def library(built: Path = BUILT) -> Path | None:
    """The library for this CPU; None where there is none."""
    variant = VARIANTS.get(torch.backends.cpu.get_cpu_capability())
    path = built / f"lorry-{variant}.so"
    return path if variant and path.exists() else None


class NativeKernels:
    """Kernels over a built library. matrix_units: whether the CPU has units for bfloat16 products.

    For float32 activations and weights in float32 or bfloat16, all in the CPU's memory and contiguous.
    """

    def __init__(self, path: Path, *, matrix_units: bool) -> None:
        self.name = path.stem.removeprefix("lorry-")
        self._matrix_units = matrix_units
        self._library = ctypes.CDLL(str(path))
        self._threads = torch.get_num_threads()
        self._z = torch.empty(0)
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, None

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """See Kernels."""
        tokens, narrow = len(x), _narrow(weight)
        if narrow and self._matrix_units and tokens >= _MATRIX_UNITS_FROM:
            out.copy_(functional.linear(x.bfloat16(), weight))
            if bias is not None:
                out += bias
            return
        n, k = weight.shape
        self._library.lorry_linear(
            x.data_ptr(), weight.data_ptr(), narrow, _at(bias), out.data_ptr(), tokens, n, k, self._threads
        )

    def argmax(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Sequence[int]:
        """See Kernels."""
        best = torch.empty(len(x), dtype=torch.int64)
        n, k = weight.shape
        self._library.lorry_argmax(
            x.data_ptr(), weight.data_ptr(), _narrow(weight), _at(bias), best.data_ptr(), len(x), n, k, self._threads
        )
        answer: list[int] = best.tolist()
        return answer

    def add_norm(self, x: Tensor, y: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> None:
        """See Kernels."""
        tokens, size = x.shape
        self._library.lorry_add_norm(
            x.data_ptr(), _at(y), weight.data_ptr(), eps, out.data_ptr(), tokens, size, self._threads
        )

    def silu_mul(self, both: Tensor, out: Tensor) -> None:
        """See Kernels."""
        tokens, size = out.shape
        self._library.lorry_silu_mul(both.data_ptr(), out.data_ptr(), tokens, size, self._threads)

    def adapt(self, x: Tensor, y: Tensor, segments: Segments, cells: Cells) -> None:
        """See Kernels."""
        if self._z.numel() < cells.room:
            self._z = torch.empty(cells.room)
        self._library.lorry_adapt(
            x.data_ptr(),
            y.data_ptr(),
            segments.table.ctypes.data,
            cells.table.ctypes.data,
            len(cells.items),
            self._z.data_ptr(),
            _narrow(segments.a[0]),
            x.shape[1],
            y.shape[1],
            self._threads,
        )

    def attend(self, qkv: Tensor, places: Places, heads: Heads, block: int, out: Tensor) -> None:
        """See Kernels."""
        call = _Attention(
            places.cos.data_ptr() if heads.rotary else None,
            places.sin.data_ptr() if heads.rotary else None,
            _at(heads.q_norm),
            _at(heads.k_norm),
            heads.keys.data_ptr(),
            heads.values.data_ptr(),
            places.slots.data_ptr(),
            places.positions.data_ptr(),
            places.first_block.data_ptr(),
            places.tables.data_ptr(),
            len(qkv),
            heads.heads,
            heads.kv_heads,
            heads.size,
            block,
            heads.window or 0,
            heads.scaling,
            heads.eps,
        )
        narrow = _narrow(heads.keys)
        self._library.lorry_attend(ctypes.byref(call), qkv.data_ptr(), out.data_ptr(), narrow, self._threads)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _narrow(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16
