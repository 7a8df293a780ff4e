"""KV blocks: who uses which, and which are kept because the same tokens may come again.

Owns block ids, how many requests use each, and the keys of full blocks. A block that nobody uses any
more keeps its contents under its key until room is needed, least recently used first. Belongs to one
thread. Does not know what a key stands for, what is written into a block, nor the order of requests.
"""

from __future__ import annotations

from collections import OrderedDict

from lorry.errors import Internal


class Blocks:
    """The KV cache as a set of `count` blocks of `block_tokens` tokens each."""

    def __init__(self, count: int, block_tokens: int) -> None:
        self.count = count
        self.block_tokens = block_tokens
        self._free = list(range(count - 1, -1, -1))
        self._reached = 0  # so many, from the first on, were ever taken
        self._users = [0] * count
        self._keys: dict[int, bytes] = {}
        self._found: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # kept and used by nobody, oldest first

    @property
    def used(self) -> int:
        """Blocks that requests use."""
        return self.count - self.available

    @property
    def kept(self) -> int:
        """Blocks that nobody uses, with contents that may be asked for again."""
        return len(self._idle)

    @property
    def available(self) -> int:
        """Blocks that `take` could give."""
        return len(self._free) + len(self._idle)

    @property
    def expected(self) -> int:
        """So many, from the first on, were taken or may be soon: as many again, but no more than a quarter of all.

        A burst as large as all before it finds its memory ready, and who uses little has little.
        """
        return min(self.count, self._reached + min(self._reached, self.count // 4))

    def needed(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)

    def take(self, count: int) -> list[int] | None:
        """So many blocks to write to, None where fewer are available."""
        if count > self.available:
            return None
        while len(self._free) < count:
            self._forget(self._idle.popitem(last=False)[0])
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._users[block] = 1
        self._reached = max(self._reached, *(block + 1 for block in taken), 0)
        return taken

    def share(self, key: bytes) -> int | None:
        """The block under this key, with one more user who only reads it; None where there is none."""
        block = self._found.get(key)
        if block is not None:
            self._users[block] += 1
            self._idle.pop(block, None)
        return block

    def publish(self, block: int, key: bytes) -> None:
        """Let others share a block that is full. Nothing happens where another block has the key."""
        if key not in self._found:
            self._found[key] = block
            self._keys[block] = key

    def give_back(self, blocks: list[int]) -> None:
        """Use these blocks no more. Empties the list, so that they cannot be given back twice."""
        for block in reversed(blocks):  # the end first: without its beginning a text's end is of no use
            self._users[block] -= 1
            if self._users[block] < 0:
                raise Internal(f"KV block {block} was given back by more requests than use it")
            if self._users[block] == 0:
                self._let_go(block)
        blocks.clear()

    def _let_go(self, block: int) -> None:
        if block in self._keys:
            self._idle[block] = None
        else:
            self._free.append(block)

    def _forget(self, block: int) -> None:
        del self._found[self._keys.pop(block)]
        self._free.append(block)
