"""Detokenising and stop strings: the outcome never depends on where the pieces were cut."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from compute_worker.runtime.text import Detokenizer, StopScanner
from tests.support.toy_wording import EOS, ToyTokenizer


class WordTokenizer(ToyTokenizer):
    """Tokens of several bytes, and a decoder that strips the space at the beginning of a text, as many do."""

    words = (" a", " b", "\u4e2d", "x\u00e9", "\U0001f600", " ", "\ufffd", "")
    vocab_size = EOS + 1 + len(words)

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [bytes([i]) if i < EOS else self.words[i - EOS - 1].encode() for i in ids if i != EOS]
        text = b"".join(pieces).decode("utf-8", errors="replace")
        return text.removeprefix(" ")


def stream(tokenizer: ToyTokenizer, ids: Sequence[int]) -> tuple[list[str], str]:
    detokenizer = Detokenizer(tokenizer)
    return [detokenizer.push(token) for token in ids], detokenizer.flush()


texts = st.text(alphabet="ab \u00e9\u4e2d\U0001f600\u200d", max_size=20)


@settings(deadline=None, derandomize=True)
@given(texts)
def test_a_character_comes_whole_with_the_token_that_completes_it(text: str) -> None:
    pieces, rest = stream(ToyTokenizer(), text.encode())
    assert "".join(pieces) == text
    assert rest == ""
    assert [piece for piece in pieces if piece] == list(text)


# Any bytes at all, with runs of the kinds that decide.
tokens = st.lists(
    st.one_of(st.integers(0, 255), st.sampled_from([0xF0, 0x9F, 0x98, 0x80, 0xE4, 0xC3]), st.just(EOS)), max_size=60
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tokens)
def test_the_pieces_are_the_decoded_whole_whatever_the_bytes(ids: list[int]) -> None:
    pieces, rest = stream(ToyTokenizer(), ids)
    assert "".join(pieces) + rest == ToyTokenizer().decode(ids)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(st.integers(EOS, WordTokenizer.vocab_size - 1), st.sampled_from(range(0x80, 0xA0))), max_size=40)
)
def test_the_pieces_are_the_whole_for_words_and_a_decoder_that_treats_the_beginning_apart(ids: list[int]) -> None:
    tokenizer = WordTokenizer()
    pieces, rest = stream(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)


def test_a_long_run_of_rubbish_does_not_make_the_window_grow() -> None:
    decoded: list[int] = []

    class Watched(ToyTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            decoded.append(len(ids))
            return super().decode(ids)

    pieces, rest = stream(Watched(), [0xFF] * 500 + [EOS] * 500)
    assert len("".join(pieces) + rest) == 500
    assert max(decoded) < 70


def spell(stops: Sequence[str], text: str) -> tuple[str, str | None]:
    """The definition: read character by character; the first stop that is complete ends, the longest of several."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


def scan(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, str | None]:
    scanner, sent = StopScanner(stops), ""
    for piece in pieces:
        text, stop = scanner.push(piece)
        sent += text
        if stop is not None:
            return sent, stop
    return sent + scanner.flush(), None


letters = st.text(alphabet="ab", min_size=1, max_size=4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(letters, max_size=4), st.lists(st.text(alphabet="abc", max_size=4), max_size=8))
def test_stop_strings_are_found_over_token_boundaries(stops: list[str], pieces: list[str]) -> None:
    assert scan(stops, pieces) == spell(stops, "".join(pieces))


@settings(deadline=None, derandomize=True)
@given(st.lists(letters, min_size=1, max_size=4), st.lists(st.text(alphabet="ab", max_size=4), max_size=8))
def test_nothing_is_sent_that_may_still_become_a_stop_string(stops: list[str], pieces: list[str]) -> None:
    scanner, sent, read = StopScanner(stops), "", ""
    for piece in pieces:
        text, stop = scanner.push(piece)
        sent, read = sent + text, read + piece
        assert read.startswith(sent)
        held = read[len(sent) :]
        if stop is not None:
            assert held.startswith(stop)
            return
        assert held == "" or any(stop.startswith(held) for stop in stops)
        assert not any(read.endswith(stop[:size]) for stop in stops for size in range(len(held) + 1, len(stop)))


def test_without_stop_strings_nothing_is_held() -> None:
    assert StopScanner(()).push("text") == ("text", None)
