"""KV blocks: taken, shared, kept for later, and forgotten when there is no other room."""

import pytest

from compute_worker.runtime.kv import Blocks
from lorry.errors import Internal


def full(blocks: Blocks, *keys: bytes) -> list[int]:
    """Blocks of one request, all of them full and published."""
    taken = blocks.take(len(keys))
    assert taken is not None
    for block, key in zip(taken, keys, strict=True):
        blocks.publish(block, key)
    return taken


def test_more_than_there_is_is_not_given() -> None:
    blocks = Blocks(3, 4)
    assert blocks.take(4) is None
    assert blocks.take(3) is not None
    assert (blocks.used, blocks.available, blocks.take(1)) == (3, 0, None)


def test_what_was_not_published_is_free_at_once() -> None:
    blocks = Blocks(2, 4)
    taken = blocks.take(2) or []
    blocks.give_back(taken)
    assert (taken, blocks.used, blocks.kept) == ([], 0, 0)


def test_a_published_block_is_kept_and_found_again() -> None:
    blocks = Blocks(3, 4)
    block = full(blocks, b"a")[0]
    blocks.give_back([block])
    assert (blocks.used, blocks.kept) == (0, 1)
    assert blocks.share(b"a") == block
    assert (blocks.used, blocks.kept, blocks.share(b"b")) == (1, 0, None)


def test_a_shared_block_is_nobody_s_to_write_until_the_last_has_given_it_back() -> None:
    blocks = Blocks(1, 4)
    mine = full(blocks, b"a")
    other = [blocks.share(b"a") or 0]
    blocks.give_back(mine)
    assert blocks.take(1) is None
    blocks.give_back(other)
    assert blocks.take(1) is not None


def test_the_least_recently_used_is_forgotten_first_and_a_text_from_its_end() -> None:
    blocks = Blocks(4, 4)
    old, new = full(blocks, b"old 1", b"old 2"), full(blocks, b"new 1", b"new 2")
    blocks.give_back(old)
    blocks.give_back(new)
    assert blocks.take(1) is not None
    assert blocks.share(b"old 2") is None
    assert blocks.share(b"old 1") is not None  # used by somebody again, so it is not next
    assert blocks.take(1) is not None
    assert [blocks.share(key) is None for key in (b"new 2", b"new 1")] == [True, False]


def test_free_blocks_are_taken_before_kept_ones() -> None:
    blocks = Blocks(3, 4)
    blocks.give_back(full(blocks, b"a"))
    assert blocks.take(2) is not None
    assert blocks.share(b"a") is not None


def test_two_who_computed_the_same_keep_it_once() -> None:
    blocks = Blocks(2, 4)
    mine, other = full(blocks, b"a"), full(blocks, b"a")
    blocks.give_back(other)
    blocks.give_back(mine)
    assert blocks.kept == 1


def test_giving_back_more_than_was_taken_is_a_defect() -> None:
    blocks = Blocks(1, 4)
    blocks.give_back(blocks.take(1) or [])
    with pytest.raises(Internal, match="block 0"):
        blocks.give_back([0])


def test_as_many_again_as_were_ever_used_are_expected_up_to_a_quarter_of_all() -> None:
    blocks = Blocks(16, 4)
    assert blocks.expected == 0
    taken = blocks.take(3) or []
    assert blocks.expected == 6
    blocks.give_back(taken)
    assert blocks.expected == 6
    assert blocks.take(3) is not None  # the same ones
    assert blocks.expected == 6
    assert blocks.take(5) is not None
    assert blocks.expected == 12
    assert blocks.take(6) is not None
    assert blocks.expected == 16
