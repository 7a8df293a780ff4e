"""How a process that moves blobs keeps memory: a chunk is the same pages again and again.

Owns four settings of glibc's allocator; elsewhere nothing is set. By default each chunk of 1 MiB is a
mapping of its own, which the kernel fills with zeros and takes back: half of the time of a transfer. For
whoever owns the process: the registry and the command do it, a program with the SDK in it may.
"""

from __future__ import annotations

import ctypes
import platform

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_SETTINGS = {
    # The most that glibc takes on 64 bits; far above a chunk (2 MiB at most, copied once on its way).
    _MMAP_THRESHOLD: 32 << 20,
    # Free memory at the end of the heap that is kept: the chunks of some 16 streams.
    _TRIM_THRESHOLD: 64 << 20,
    # Grown by this at once; more would be held for nothing by a registry that only answers questions.
    _TOP_PAD: 16 << 20,
    # Each arena keeps what its streams were through with: two keep 45 MiB, as many as glibc likes up to 110.
    _ARENA_MAX: 2,
}


def keep_memory() -> None:
    """Set them; call it before anything large is allocated."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for setting, value in _SETTINGS.items():
        mallopt(setting, value)
