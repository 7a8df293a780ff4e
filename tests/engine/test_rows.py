"""An adapter's rows on the host: cast as torch would, side by side, in memory that was got before."""

from __future__ import annotations

import ctypes
import mmap
import re
import resource
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compute_worker.engine.kv import KvCache, LayerShape
from compute_worker.engine.memory import Arena, passing, populate, reserve
from compute_worker.engine.native import library
from compute_worker.engine.native.casting import NativeCast
from compute_worker.engine.rows import HostRows, Spare, room_for, torch_cast
from lorry.errors import InvalidAdapter

FILES = [torch.float32, torch.float16, torch.bfloat16]
POOLS = [torch.float32, torch.bfloat16]
NATIVE = library()


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.skipif(NATIVE is None, reason="no native kernels for this CPU")
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("file", FILES)
def test_the_native_cast_gives_the_bits_that_torch_gives(file: torch.dtype, pool: torch.dtype, *, turned: bool) -> None:
    assert NATIVE is not None
    noise = torch.Generator().manual_seed(1)
    # Every exponent, zeros of both signs, and numbers too small to be normal.
    numbers = torch.randn(9, 301, generator=noise) * 2.0 ** torch.randint(-30, 12, (9, 301), generator=noise)
    numbers[0, :3] = torch.tensor([0.0, -0.0, 6e-8])
    tensor = numbers.to(file)
    for scale in (1.0, 0.3):
        native, general = (torch.empty(tensor.T.shape if turned else tensor.shape, dtype=pool) for _ in range(2))
        assert NativeCast(NATIVE)(tensor, native, scale, turned=turned)
        assert torch_cast(tensor, general, scale, turned=turned)
        assert bits(native).equal(bits(general))


@pytest.mark.skipif(NATIVE is None, reason="no native kernels for this CPU")
def test_the_native_cast_widens_every_number_of_16_bits_as_torch_does() -> None:
    assert NATIVE is not None
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(256, 256)
    for file in FILES[1:]:
        tensor, native = every.view(file), torch.empty(256, 256)
        assert not NativeCast(NATIVE)(tensor, native, 1.0, turned=False)
        number = tensor.isfinite()
        assert bits(native[number]).equal(bits(tensor.float()[number]))
        assert native.isfinite().equal(number)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 3e38])
def test_what_is_not_finite_in_the_pools_type_is_refused(wrong: float, pool: torch.dtype) -> None:
    tensor = torch.ones(4, 8)
    tensor[3, 7] = wrong
    rows = HostRows(torch.empty(room_for([(4, 8)], pool), dtype=torch.uint8), pool)
    with pytest.raises(InvalidAdapter, match="expected values that are finite in"):
        rows.put(tensor, "a.weight", 2.0)


def test_matrices_lie_side_by_side_and_none_on_another() -> None:
    shapes = [(3, 5), (5, 2), (1, 1)]
    rows = HostRows(torch.empty(room_for(shapes, torch.float32), dtype=torch.uint8), torch.float32)
    given = [torch.full(shape, float(number)) for number, shape in enumerate(shapes)]
    put = [rows.put(tensor, "a", turned=number == 1) for number, tensor in enumerate(given)]
    assert [tuple(matrix.shape) for matrix in put] == [(3, 5), (2, 5), (1, 1)]
    for number, matrix in enumerate(put):
        assert (matrix == number).all()


def test_memory_is_got_for_one_as_large_as_the_last_two_and_given_once() -> None:
    spare = Spare()
    taken = [spare.take(1 << 20), spare.take(1 << 20)]
    spare.prepare()
    ready = spare._ready
    spare.prepare()
    taken += [spare.take(1 << 20), spare.take(1 << 20)]
    assert ready is not None
    assert taken[2] is ready
    assert len({tensor.data_ptr() for tensor in taken}) == 4


def test_no_memory_is_got_where_sizes_differ() -> None:
    spare = Spare()
    for size in (100, 200, 100):
        assert len(spare.take(size)) == size
        spare.prepare()
        assert spare._ready is None


def test_memory_that_is_got_keeps_what_it_holds() -> None:
    tensor = reserve((600, 700), torch.float32, torch.device("cpu"))
    tensor[3] = 7
    populate(tensor[2:400])
    assert tensor.sum() == 7 * 700


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_memory_of_an_adapter_that_went_is_the_systems_again_once_nothing_of_it_is_used() -> None:
    adapters = [passing(8 << 20).fill_(1) for _ in range(8)]
    matrices = [adapter[64:128] for adapter in adapters]
    held = resident()
    del adapters
    assert resident() > held - (8 << 20)
    assert [int(matrix.sum()) for matrix in matrices] == [64] * 8
    del matrices
    assert resident() < held - (56 << 20)


def test_a_small_adapter_has_no_mapping_of_its_own() -> None:
    assert [len(passing(size)) for size in (0, 1, 1000, (1 << 20) + 5)] == [0, 1, 1000, (1 << 20) + 5]


def faults() -> int:
    """Pages that this thread met for the first time."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


@pytest.mark.skipif(sys.platform != "linux", reason="no MADV_POPULATE_WRITE")
def test_kv_memory_that_was_had_ahead_is_there_and_no_more_of_it() -> None:
    # 42 MB a tensor: from 32 MB on, malloc never takes what was used before.
    kv = KvCache({n: LayerShape(4, 64, 64) for n in range(2)}, 2560, torch.float32, torch.device("cpu"))
    of_block, piece = 16 * 4 * 64 * 4, 1
    while kv.extend(128):
        piece += 1
    assert piece == 4 * 128 // 64  # short ones: other work comes between
    assert not kv.extend(128)
    met = [faults()]
    for first in (0, 1280):
        for memory in (each for layer in range(2) for each in kv.memory(layer)):
            ctypes.memset(memory.data_ptr() + first * of_block, 0, 128 * of_block)
        met.append(faults())
    assert met[1] - met[0] < 4 <= met[2] - met[1]


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_weights_lie_where_the_system_has_large_pages() -> None:
    taken = Arena().take(4 << 20).fill_(1)
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) <= taken.data_ptr() < int(match[2], 16)
        elif inside and line.startswith("VmFlags:"):
            assert "hg" in line.split()  # advised
            assert "sh" not in line.split()  # and not a file's, which has small ones
            return
    pytest.fail("the arena is not mapped")
