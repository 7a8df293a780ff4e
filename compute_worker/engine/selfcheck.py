"""The check at start: does this model, hooked, compute what it computes alone?

Owns the two probes: one measures the model (layers that attend, KV shapes, linears that see every
token), one compares mixed steps with plain forwards. Does not know families of models: what differs
in a way that nobody thought of is found here, by its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compute_worker.contract import Sampling, StepRow
from compute_worker.engine.attention import Rule, attending
from compute_worker.engine.experts import is_experts
from compute_worker.engine.hooked import forward
from compute_worker.engine.kv import BLOCK_TOKENS, LayerShape
from compute_worker.engine.linear import features, is_target
from compute_worker.engine.masks import Mask, masked
from lorry.errors import LorryError, UnsupportedModel

# Largest error, relative to the norm of the logits. float32 sums in another order: below 1e-6 over 26 families.
# bfloat16 keeps 8 bits: 1e-2 to 3e-2, 5e-2 where experts are routed; wrong attention is off by more than 5e-1.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 2e-2}
# Where only what is stored is rounded (by 2^-9 at most) and all sums are float32: a fifth of what bfloat16 is given.
STORED_TOLERANCE = 2e-2
# Tokens beyond a first block: one prompt goes there in a decode step, one in a chunk.
_BEYOND = (1, 7)
# Blocks that the check needs: two a prompt.
BLOCKS = 4

Logits = Callable[[Sequence[StepRow]], tuple[list[int], Tensor]]


@dataclass(slots=True)
class Measured:
    """What a forward of the model showed.

    shapes: KV of each layer that attends. rules: how it weighs its keys. targets: names of the linears that
    saw every token (the output head: every kept one); adapters can be added to these alone. plain: by name, the
    other modules with parameters that were given one tensor with every token, and what of it is one token's. experts:
    names of the modules of stacked experts that were given every token, and which experts it goes to at what share.
    masks: of each layer, its model's own; None where it cannot be asked.
    """

    shapes: dict[int, LayerShape] = field(default_factory=dict)
    rules: dict[int, Rule] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    plain: dict[str, tuple[int, ...]] = field(default_factory=dict)
    experts: list[str] = field(default_factory=list)
    masks: Mapping[int, Mask | None] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """See Attending; remembers the shapes. The output is good for its shape alone."""
        if layer in self.shapes:
            raise UnsupportedModel(f"expected a layer to attend once, layer {layer} does so again")
        self.rules[layer] = rule
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        output = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=rule.scaling, enable_gqa=True
        )
        return output.transpose(1, 2)


@torch.inference_mode()
def alone(model: PreTrainedModel, block_tokens: int) -> list[Tensor]:
    """Logits [tokens, vocabulary] of each prompt, by the model as transformers made it.

    Side by side, which reads the weights once: what fills the shorter one up comes behind it, where it sees nothing.
    """
    prompts = _prompts(model, block_tokens)
    longest = max(map(len, prompts))
    filled = torch.tensor([prompt + prompt[:1] * (longest - len(prompt)) for prompt in prompts], device=model.device)
    with _running(model):
        logits = model(input_ids=filled, use_cache=False).logits
    return [line[: len(prompt)] for line, prompt in zip(logits, prompts, strict=True)]


@torch.inference_mode()
def measure(model: PreTrainedModel) -> Measured:
    """Hook the model's attention and run a prompt through it. Raises UnsupportedModel."""
    measured, tokens = Measured(), _prompts(model, BLOCK_TOKENS)[0]
    head = model.get_output_embeddings()
    hooks = [
        module.register_forward_hook(_remember(measured, name, 1 if module is head else len(tokens)))
        for name, module in model.named_modules()
        if is_target(module)
    ]
    hooks += [
        module.register_forward_hook(_remember_plain(measured, name, len(tokens)), with_kwargs=True)
        for name, module in model.named_modules()
        if not is_target(module) and next(module.parameters(recurse=False), None) is not None
    ]
    hooks += [
        module.register_forward_hook(_remember_experts(measured, name, len(tokens)))
        for name, module in model.named_modules()
        if is_experts(module)
    ]
    try:
        with masked(model) as measured.masks, attending(measured), _running(model):
            forward(model, tokens, range(len(tokens)), [len(tokens) - 1])
    finally:
        for hook in hooks:
            hook.remove()
    layers = model.config.num_hidden_layers
    if len(measured.shapes) != layers:
        kind = model.config.model_type
        raise UnsupportedModel(f"{kind}: expected {layers} layers to attend, got {len(measured.shapes)}")
    return measured


@contextmanager
def _running(model: PreTrainedModel) -> Iterator[None]:
    """Raise UnsupportedModel where the model's own code fails, in whatever way."""
    try:
        yield
    except LorryError:
        raise
    except Exception as error:
        raise UnsupportedModel(
            f"{model.config.model_type}: its forward fails with {type(error).__name__}: {error}"
        ) from error


def _remember(measured: Measured, name: str, tokens: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        if inputs[0].numel() == tokens * features(module)[0]:
            measured.targets.append(name)

    return hook


def _remember_plain(measured: Measured, name: str, tokens: int) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[object, ...], named: dict[str, object], output: object) -> None:
        if len(inputs) == 1 and not named and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            given, came = tuple(inputs[0].shape), tuple(output.shape)
            # As most have them, or without the batch that they are all in.
            for whole in ((1, tokens), (tokens,)):
                if given[: len(whole)] == whole == came[: len(whole)]:
                    measured.plain[name] = given[len(whole) :]

    return hook


def _remember_experts(measured: Measured, name: str, tokens: int) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[object, ...], _output: object) -> None:
        given = [one for one in inputs if isinstance(one, Tensor)]
        # As most have them: tokens, the experts of each, and the share of each.
        if len(inputs) == len(given) == 3:  # noqa: PLR2004 - these
            x, chosen, shares = given
            alike = x.shape[:-1] == chosen.shape[:-1] == shares.shape[:-1] == (tokens,)
            if alike and chosen.shape == shares.shape and not chosen.is_floating_point():
                measured.experts.append(name)

    return hook


def compare(
    model: PreTrainedModel, logits: Logits, expected: Sequence[Tensor], stored: torch.dtype, block_tokens: int
) -> None:
    """Run the prompts in mixed steps (chunks of both, a decode row beside a chunk, decode rows alone) and compare.

    logits: of a step's rows that draw, with the index of each. expected: of `alone`, for blocks of as many tokens.
    stored: the type of keys and values. Raises UnsupportedModel.
    """
    one, two = _prompts(model, block_tokens)
    last = len(one) - 1
    cut = len(two) // 3
    steps = (
        [_row(one, 0, last, 0), _row(two, 0, cut, 1)],
        [_row(one, last, last + 1, 0), _row(two, cut, len(two) - 1, 1)],
        [_row(one, last, last + 1, 0), _row(two, len(two) - 1, len(two), 1)],
    )
    for rows in steps:
        for index, got in zip(*logits(rows), strict=True):
            row = rows[index]
            want = expected[row.blocks[0] // 2][row.position + len(row.tokens) - 1]
            check_equal(model, got, want, stored)


def check_equal(model: PreTrainedModel, got: Tensor, want: Tensor, stored: torch.dtype) -> None:
    """Raise UnsupportedModel where logits are further apart than the types explain that they come from."""
    error = float((got.float() - want.float()).norm() / want.float().norm())
    tolerance = TOLERANCE[model.dtype]
    if model.dtype == torch.float32 and stored != torch.float32:
        tolerance = STORED_TOLERANCE
    if not error <= tolerance:  # NaN is not
        raise UnsupportedModel(
            f"{model.config.model_type}: its logits in a mixed batch are off by {error:.1e} of their norm, "
            f"expected at most {tolerance:.0e}; its attention or layers do something that is not served"
        )


def _row(prompt: list[int], begin: int, end: int, place: int) -> StepRow:
    """Tokens [begin, end) of a prompt whose KV lies in blocks 2 * place and 2 * place + 1."""
    blocks = (2 * place, 2 * place + 1)
    return StepRow(prompt[begin:end], begin, blocks, (), Sampling(), prompt[:end], 0)


def _prompts(model: PreTrainedModel, block_tokens: int) -> list[list[int]]:
    """Ids spread over the vocabulary; each prompt reaches into a second block."""
    vocabulary = model.config.vocab_size
    lengths = [block_tokens + beyond for beyond in _BEYOND]
    return [[(7919 * index + length) % vocabulary for index in range(length)] for length in lengths]
