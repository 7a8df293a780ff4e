"""The header guard against the safetensors library: whatever we accept, it accepts and sees alike."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry.errors import InvalidAdapter
from lorry.format.header import ITEM_BYTES, header_length, parse_header
from tests.support.adapters import adapter_bytes, with_header

Header = dict[str, object]
SEED = 20_260_101
INPUTS = 6000


def accepted(file: bytes) -> bool:
    """Whether the guard takes the file; where it does, the library must take it and see the same."""
    try:
        index = parse_header(file[: header_length(file[:8])], len(file))
    except InvalidAdapter:
        return False
    theirs = {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in safetensors.deserialize(file)}
    assert {entry.name: (entry.dtype, entry.shape) for entry in index.tensors} == theirs
    return True


def sound(draw: random.Random) -> tuple[Header, int]:
    """A header in which all is right, in any order of its keys, and the bytes that it describes."""
    entries, end = [], 0
    for name in draw.sample(
        ["a", "b.lora_A.weight", "", "\0", "ä\u20ac\U0001f69a", 'q"\\', "dtype"], draw.randint(0, 5)
    ):
        dtype = draw.choice(list(ITEM_BYTES))
        shape = [draw.choice([0, 1, 2, 3, 7]) for _ in range(draw.randint(0, 4))]
        size = math.prod(shape) * ITEM_BYTES[dtype]
        entry = [("dtype", dtype), ("shape", shape), ("data_offsets", [end, end + size])]
        draw.shuffle(entry)
        entries.append((name, dict(entry)))
        end += size
    if draw.random() < 0.5:
        entries.append(("__metadata__", draw.choice([{}, {"format": "pt"}, {"": "\u20ac"}])))
    draw.shuffle(entries)
    return dict(entries), end


def spell(header: Header, draw: random.Random) -> bytes:
    """One of the spellings of a header that JSON allows."""
    text = json.dumps(
        header,
        ensure_ascii=draw.random() < 0.5,
        indent=draw.choice([None, None, 1]),
        separators=draw.choice([None, (",", ":"), (" ,\t", " :\n")]),
    )
    return (text + draw.choice(["", "", " ", "\n", "\t\r\n"])).encode(errors="surrogatepass")


def number(header: Header, draw: random.Random) -> None:
    """Another number somewhere: one beside it, or one that parsers and allocators trip over."""
    entry = draw.choice([value for value in header.values() if isinstance(value, dict)] or [{}])
    lists = [value for value in entry.values() if isinstance(value, list) and value]
    if lists:
        numbers = draw.choice(lists)
        at = draw.randrange(len(numbers))
        near = [numbers[at] + step for step in (-1, 0, 1, 2)] if isinstance(numbers[at], int) else []
        odd = [-0.0, 1.0, 1 << 31, 1 << 32, 1 << 62, 1 << 63, 1 << 64, 10**30, True, None, "1", [], math.nan]
        numbers[at] = draw.choice([*near, *near, *odd])


def field(header: Header, draw: random.Random) -> None:
    """A field of an entry set to a value of some kind, or taken away."""
    entry = draw.choice([value for value in header.values() if isinstance(value, dict)] or [{}])
    name = draw.choice(["dtype", "shape", "data_offsets", "extra", "format"])
    entry[name] = draw.choice(["F32", "F64", "I8", "BOOL", "f32", "F8_E4M3", "", None, 4, [], [0], [1, 0], [0, 4], {}])
    if draw.random() < 0.3:
        del entry[name]


def entry(header: Header, draw: random.Random) -> None:
    """A whole entry more, or replaced."""
    void: Header = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    name = draw.choice(["a", "z", "__metadata__", "\ud800", "dtype"])
    header[name] = draw.choice(
        [void, None, [], {}, {"format": 1}, {"format": None}, "x", dict(void, data_offsets=[0, 4])]
    )


MUTATIONS: list[Callable[[Header, random.Random], None]] = [number, number, field, entry]


def mutant(draw: random.Random) -> bytes:
    """A file with up to two things wrong."""
    header, size = sound(draw)
    for _ in range(draw.choice([0, 1, 1, 1, 2])):
        draw.choice(MUTATIONS)(header, draw)
    file = bytearray(with_header(spell(header, draw), [bytes(max(0, size + draw.choice([0] * 12 + [-1, 1, 4])))]))
    if draw.random() < 0.2:
        file[draw.randrange(len(file))] = draw.randrange(256)
    return bytes(file)


def test_whatever_the_guard_accepts_the_library_accepts_and_sees_alike() -> None:
    draw = random.Random(SEED)  # noqa: S311 - inputs of a test, to be the same every time
    verdicts = Counter(accepted(mutant(draw)) for _ in range(INPUTS))

    # Neither side may be the rule: then the mutations would test nothing.
    assert verdicts[True] > INPUTS / 6
    assert verdicts[False] > INPUTS / 6


def test_every_sound_header_is_accepted_in_every_spelling() -> None:
    draw = random.Random(SEED)  # noqa: S311 - inputs of a test, to be the same every time
    for _ in range(500):
        header, size = sound(draw)
        assert accepted(with_header(spell(header, draw), [bytes(size)])), header


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_random_bytes_end_in_a_typed_error_or_a_sound_index(data: bytes, length: int) -> None:
    accepted(length.to_bytes(8, "little") + data)
    accepted(data)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_adapters_that_the_tests_build_are_accepted(dtype: str) -> None:
    assert accepted(adapter_bytes(dtype=dtype)[1])
