"""Servers of this process for tests that have no event loop: they run on the loop of lorry.sync.

Knows nothing of what it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

from lorry import sync

T = TypeVar("T")


@contextmanager
def blocking(context: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """The context as a plain one."""
    value = sync._wait(context.__aenter__())
    try:
        yield value
    finally:
        sync._wait(context.__aexit__(None, None, None))
