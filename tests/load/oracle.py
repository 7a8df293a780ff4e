"""The verdict on answers: each token has to be what the reference's logits give behind all tokens before it.

Owns how an answer is compared: tokens as drawn, log-probabilities, text, and its end. Where logits that
differ by less than rounding would have drawn the given token, it is right, and counted. Does not know
names, nor when anything was served.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compute_worker.contract import StepRow
from compute_worker.engine.sampler import draw
from compute_worker.wording import Tokenizer
from lorry.v1.inference_pb2 import FINISH_REASON_STOP
from tests.load.asking import Asked
from tests.load.record import Output, Scored
from tests.load.reference import Reference

# float32 on both sides, sums in another order.
ROUNDING = 1e-4
# Of logits moved at random, each by ROUNDING at most: enough to draw what is that near.
_TRIES = 32


class Oracle:
    """close: tokens where rounding decided."""

    def __init__(self, reference: Reference, tokenizer: Tokenizer) -> None:
        self._reference = reference
        self._tokenizer = tokenizer
        self._judged: dict[tuple[object, ...], str] = {}
        self._noise = torch.Generator().manual_seed(0)
        self.close = 0

    def wrong(self, output: Output) -> str:
        """What is wrong with an answer; empty where nothing is."""
        asked = output.asked
        what = (output.served, asked.prompt, asked.chat, asked.sampling, asked.form, asked.ignore_eos, asked.max_new)
        key = (*what, output.tokens, output.logprobs, output.text, output.reason)
        if key not in self._judged:
            self._judged[key] = self._wrong(output)
        return self._judged[key]

    def wrong_score(self, scored: Scored) -> str:
        """What is wrong with a score; empty where nothing is."""
        prompt, continuation = self._tokenizer.encode_pair(scored.prompt, scored.continuation)
        if continuation != [token for token, _, _ in scored.tokens]:
            return f"{scored}: expected the tokens {continuation}"
        logits = self._reference.logits(scored.served, prompt, continuation)[:-1]
        off = [
            f"{index}: {expected} expected, {behind} behind the likeliest"
            for index, (row, (token, logprob, greedy)) in enumerate(zip(logits, scored.tokens, strict=True))
            for expected, behind in [(float(row.log_softmax(0)[token]), float(row.max() - row[token]))]
            if abs(expected - logprob) > ROUNDING or (greedy != (behind == 0) and behind > ROUNDING)
        ]
        return f"{'; '.join(off)}: {scored}" if off else ""

    def _wrong(self, output: Output) -> str:
        asked, tokens = output.asked, output.tokens
        prompt = self._prompt(asked)
        logits = self._reference.logits(output.served, prompt, tokens)
        guide = None if asked.form is None else self._tokenizer.guide(asked.form)
        for index in range(len(tokens) + 1):
            ended = guide is not None and guide.ended
            allowed = None if guide is None or ended else guide.allowed()
            row = StepRow((), 0, (), (), asked.sampling, [*prompt, *tokens[:index]], index, allowed)
            if index == len(tokens):
                right = self._ends(output, logits[index], row, complete=ended)
            else:
                right = not ended and self._goes_on(asked, logits[index], row, tokens[index])
            if not right:
                return f"{output}: expected {_drawn(logits[index], row)} at {index}"
            if guide is not None and index < len(tokens):
                guide.take(tokens[index])
        return "" if self._tells(output, logits) else f"{output}: text or log-probabilities"

    def _goes_on(self, asked: Asked, logits: Tensor, row: StepRow, token: int) -> bool:
        """Whether the answer has this token next; one that ends a text does, unless that is to be ignored."""
        return (asked.ignore_eos or token not in self._tokenizer.eos_ids) and self._draws(logits, row, token)

    def _ends(self, output: Output, logits: Tensor, row: StepRow, *, complete: bool) -> bool:
        """Whether the answer had to end here, and for its reason; an answer that was left need not.

        complete: its form allows no more.
        """
        if complete or output.reason == 0:
            return output.reason in {0, FINISH_REASON_STOP}
        if output.reason != FINISH_REASON_STOP:
            return len(output.tokens) == output.asked.max_new
        return not output.asked.ignore_eos and any(self._draws(logits, row, eos) for eos in self._tokenizer.eos_ids)

    def _tells(self, output: Output, logits: Tensor) -> bool:
        if output.reason and output.text != self._tokenizer.decode(output.tokens):
            return False
        if output.asked.sampling.logprobs is None:
            return not output.logprobs
        if len(output.logprobs) != len(output.tokens):
            return False
        natural = logits.log_softmax(-1)
        expected = [float(natural[index, token]) for index, token in enumerate(output.tokens)]
        return all(abs(a - b) < ROUNDING for a, b in zip(expected, output.logprobs, strict=True))

    def _draws(self, logits: Tensor, row: StepRow, token: int) -> bool:
        """Whether these logits, or some that rounding cannot tell from them, draw this token."""
        if _drawn(logits, row) == token:
            return True
        moved = [logits + ROUNDING * (2 * torch.rand(logits.shape, generator=self._noise) - 1) for _ in range(_TRIES)]
        near = any(_drawn(each, row) == token for each in moved)
        self.close += near
        return near

    def _prompt(self, asked: Asked) -> list[int]:
        if asked.chat:
            return self._tokenizer.encode_chat([("user", asked.prompt)])
        return self._tokenizer.encode(asked.prompt)


def _drawn(logits: Tensor, row: StepRow) -> int:
    return draw(logits[None], [row])[0].token
