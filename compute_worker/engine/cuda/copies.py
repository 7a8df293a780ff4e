"""Copies to a CUDA device beside the steps that run on it, and the end of a step. On the CPU all of it is nothing.

Owns the stream of copies and what may overlap: a copy begins after every step that has returned, and has ended
before anybody is told of it. So a step waits for no copy. Does not know adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Copies:
    """Copies to one device, of any thread."""

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What the block copies runs beside the steps, and is done when the block is left.

        The thread waits here rather than the next step on the device: an adapter is told of when it is there, and its
        host memory may go as soon as this returns.
        """
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor in memory that `device` copies from by itself; as it is for the CPU."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def settle(device: torch.device) -> None:
    """Wait for the step that this thread began on `device`.

    A step that draws nothing would return while it still reads its adapters' rows and writes its KV blocks, both of
    which may be given to others as soon as it has returned.
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
