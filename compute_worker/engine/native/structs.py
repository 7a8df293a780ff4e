"""The structures of step.h, made from operations.

Owns their fields and order. What an operation holds must outlive the structure made from it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_double, c_int64, c_void_p

import numpy as np
import torch
from torch import Tensor

from compute_worker.engine.kernels import Adapt, AddNorm, Argmax, Attend, Linear, Operation, Segments, SiluMul
from compute_worker.engine.native.panels import Stored, is_narrow, panels_of

# As `Kind` of step.cpp.
_KINDS = {kind: number for number, kind in enumerate((Linear, Argmax, AddNorm, SiluMul, Adapt, Attend))}


class CStep(Structure):
    """`Step`."""

    _fields_ = (
        ("tokens", c_int64),
        ("row_count", c_int64),
        *((name, c_void_p) for name in ("rows", "tables", "cos", "sin", "added", "z", "rounded")),
    )


class COperation(Structure):
    """`Operation`."""

    _fields_ = (("kind", c_int64), ("what", c_void_p))


class _Linear(Structure):
    """`Linear`."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "panels", "bias", "y")),
        *((name, c_int64) for name in ("n", "k", "stored", "ready")),
    )


class _Argmax(Structure):
    """`Argmax`."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "panels", "bias", "best", "values")),
        *((name, c_int64) for name in ("n", "k", "stored")),
    )


class _Activation(Structure):
    """`Activation`."""

    _fields_ = (("at", c_void_p), *((name, c_int64) for name in ("size", "paired", "product")))


class _AddNorm(Structure):
    """`AddNorm`."""

    _fields_ = (*((name, c_void_p) for name in ("x", "y", "weight")), ("out", _Activation), ("eps", c_double))


class _SiluMul(Structure):
    """`SiluMul`."""

    _fields_ = (("both", c_void_p), ("out", _Activation))


class _Adapt(Structure):
    """`Adapt`."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "y", "segments")),
        *((name, c_int64) for name in ("product", "narrow", "k", "ldy")),
    )


class _Attend(Structure):
    """`Attend`."""

    _fields_ = (
        *((name, c_void_p) for name in ("qkv", "out", "keys", "values", "q_norm", "k_norm")),
        *((name, c_int64) for name in ("heads", "kv_heads", "size", "block", "window", "rotary", "stored")),
        ("scaling", c_double),
        ("eps", c_double),
    )


def structures(operations: Sequence[Operation], *, pairs: bool, handed: bool) -> list[tuple[COperation, object]]:
    """Operations as step.cpp reads them, each with what must live as long.

    pairs: of NativeKernels. handed: whether an activation is left in pairs for the product behind it that reads these.
    """
    paired = [handed and _is_paired(operations, index) for index in range(len(operations))]
    made: list[tuple[COperation, object]] = []
    for index, operation in enumerate(operations):
        out = paired[index], _product_at(operations[index + 2 : index + 3])
        what, kept = _made(operation, pairs=pairs, out=out, ready=index > 0 and paired[index - 1])
        made.append((COperation(_KINDS[type(operation)], ctypes.addressof(what)), (operation, what, kept)))
    return made


def _is_paired(operations: Sequence[Operation], index: int) -> bool:
    """Whether the next operation reads in pairs what this one makes."""
    match operations[index : index + 2]:
        case [AddNorm() | SiluMul() as maker, Linear() as reader]:
            return reader.x is maker.out and panels_of(reader.weight).stored is Stored.PAIRS
        case _:
            return False


def _product_at(operations: Sequence[Operation]) -> int:
    """The number of the product to which an operation adds, -1 where it is none that does."""
    return next((operation.product for operation in operations if isinstance(operation, Adapt)), -1)


def _made(operation: Operation, *, pairs: bool, out: tuple[bool, int], ready: bool) -> tuple[Structure, object]:
    match operation:
        case Linear(x, weight, bias, y):
            panels = panels_of(weight)
            return _Linear(_at(x), _at(panels.memory), _at(bias), _at(y), *weight.shape, panels.stored, ready), None
        case Argmax(x, weight, bias, best):
            panels, values = panels_of(weight), torch.empty(len(best))
            sizes = (*weight.shape, panels.stored)
            return _Argmax(_at(x), _at(panels.memory), _at(bias), _at(best), _at(values), *sizes), values
        case AddNorm(x, y, weight, eps, made):
            return _AddNorm(_at(x), _at(y), _at(weight), _Activation(_at(made), made.shape[1], *out), eps), None
        case SiluMul(both, made):
            return _SiluMul(_at(both), _Activation(_at(made), made.shape[1], *out)), None
        case Adapt(x, y, segments, product):
            table = _segments(segments)
            narrow = is_narrow(segments.a[0])
            return _Adapt(_at(x), _at(y), table.ctypes.data, product, narrow, x.shape[1], y.shape[1]), table
        case Attend():
            return _attend(operation, pairs=pairs), None


def _attend(operation: Attend, *, pairs: bool) -> _Attend:
    heads = operation.heads
    tensors = (operation.qkv, operation.out, heads.keys, heads.values, heads.q_norm, heads.k_norm)
    return _Attend(
        *map(_at, tensors),
        heads.heads,
        heads.kv_heads,
        heads.size,
        operation.block,
        heads.window or 0,
        heads.rotary,
        (Stored.PAIRS if pairs else Stored.NARROW) if is_narrow(heads.keys) else Stored.WIDE,
        heads.scaling,
        heads.eps,
    )


def _segments(segments: Segments) -> np.ndarray:
    parts = zip(segments.a, segments.b, segments.columns, strict=True)
    return np.array([(_at(a), _at(b), column, b.shape[1]) for a, b, column in parts], dtype=np.int64)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
