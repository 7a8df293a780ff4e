"""Work on a CUDA device, recorded once and replayed with one launch.

Owns how a CUDA graph is captured. Does not know what the work is: its kernels read and write the same memory in
every replay, and whoever records sees to it that this memory is there and filled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

Work = Callable[[], None]


class Recorder(Protocol):
    """Makes work that can be done again."""

    def __call__(self, work: Work) -> Work:
        """Do the work, and give what does the same again, on the same memory."""


class Graphs:
    """A Recorder of CUDA graphs. No other thread may use the device while it records.

    Graphs share what lies between their kernels: only one may be replayed at a time, and what it gives must be
    written to memory of its own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """See Recorder. Raises RuntimeError where something in the work cannot be captured."""
        # The block restores the stream where a capture that fails does not.
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)):
            self._warm_up(work)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._memory):
                work()
        return graph.replay

    def _warm_up(self, work: Work) -> None:
        """Do it on another stream: libraries make their handles and load their kernels, which no capture takes."""
        here, aside = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            work()
        here.wait_stream(aside)
