"""The changes of a step, put into a model's modules for as long as they are needed.

Owns the hooks. A module without a change in the coming step has none, so the model's own forward costs nothing
more. Does not know which adapters there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compute_worker.engine.changes import Use, changed


class Sites:
    """The modules of a model. They are told before each step what to change."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._told: Mapping[str, Sequence[Use]] = {}
        self._hooks: list[RemovableHandle] = []

    def tell(self, uses: Mapping[str, Sequence[Use]]) -> None:
        """What to change from now on, by module. Free where it is what it was."""
        if uses is self._told:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = [hook for name, each in uses.items() for hook in self._hook(name, each)]
        self._told = uses

    def _hook(self, name: str, uses: Sequence[Use]) -> Iterator[RemovableHandle]:
        module = self._model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            yield from _hook_embedding(module, uses)
            return

        def change(_module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
            (x,) = inputs
            if y.dim() == 2:  # noqa: PLR2004 - tokens and columns
                return changed(x, y, uses)
            return _changed(x, y, uses)

        yield module.register_forward_hook(change)


def _hook_embedding(module: nn.Embedding, uses: Sequence[Use]) -> Iterator[RemovableHandle]:
    """Ids of a vocabulary of an adapter's own may not be the base's: the base looks up another for those."""
    given: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        given[:] = inputs
        return (inputs[0].clamp(max=module.num_embeddings - 1),)

    def change(_module: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return _changed(given.pop(), y, uses)

    yield module.register_forward_pre_hook(keep)
    yield module.register_forward_hook(change)


def _changed(x: Tensor, y: Tensor, uses: Sequence[Use]) -> Tensor:
    """Of inputs and outputs [1, tokens, ...], as transformers has them."""
    made = changed(x.flatten(0, 1), y.flatten(0, 1), uses)
    return made.view(*y.shape[:2], *made.shape[1:])
