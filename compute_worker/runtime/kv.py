"""KV blocks: which are free, and how many a request needs.

Owns block ids. Does not know what is written into a block, nor the order of requests.
"""

from __future__ import annotations

from lorry.errors import Internal


class Blocks:
    """The KV cache as a set of blocks of `block_tokens` tokens each. Belongs to one thread."""

    def __init__(self, count: int, block_tokens: int) -> None:
        self.count = count
        self.block_tokens = block_tokens
        self._free = list(range(count - 1, -1, -1))

    @property
    def used(self) -> int:
        """Blocks that are taken."""
        return self.count - len(self._free)

    def needed(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)

    def take(self, tokens: int) -> list[int] | None:
        """Blocks for `tokens` tokens, None where not enough are free."""
        needed = self.needed(tokens)
        if needed > len(self._free):
            return None
        return [self._free.pop() for _ in range(needed)]

    def give_back(self, blocks: list[int]) -> None:
        """Free blocks and empty the list, so that it cannot be given back twice."""
        self._free.extend(blocks)
        blocks.clear()
        if len(self._free) > self.count:
            raise Internal(f"{len(self._free)} KV blocks are free of {self.count}")
