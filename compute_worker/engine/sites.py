"""The changes of a step, put into a model's modules for as long as they are needed.

Owns the hooks, and the forward in the place of experts'. A module without a change in the coming step has neither,
so the model's own forward costs nothing more. Does not know which adapters there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor, nn

from compute_worker.engine.changes import Change, Use, changed
from compute_worker.engine.changing import NOTHING, Changes
from compute_worker.engine.experts import ExpertUse, routed
from compute_worker.engine.table import Table


class Sites:
    """The modules of a model. They are told before each step what to change."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._told = NOTHING
        self._undo: list[Callable[[], object]] = []

    def tell(self, changes: Changes) -> None:
        """What to change from now on. Free where it is what it was."""
        if changes is self._told:
            return
        for undo in self._undo:
            undo()
        self._undo = [undo for name, uses in changes.uses.items() for undo in self._hook(name, uses)]
        self._undo += [self._stand_in(name, uses) for name, uses in changes.experts.items()]
        self._told = changes

    def _stand_in(self, name: str, uses: Sequence[ExpertUse]) -> Callable[[], object]:
        module = self._model.get_submodule(name)
        # Not by attribute: to mypy a method, to torch a search among parameters.
        module.__dict__["forward"] = partial(routed, module, uses)
        return partial(module.__dict__.pop, "forward")

    def _hook(self, name: str, uses: Sequence[Use[Change]]) -> Iterator[Callable[[], object]]:
        module = self._model.get_submodule(name)
        if isinstance(module, Table):
            yield from _hook_embedding(module, uses)
            return

        def change(_module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
            (x,) = inputs
            if y.dim() == 2:  # noqa: PLR2004 - tokens and columns
                return changed(x, y, uses)
            return _changed(x, y, uses)

        yield module.register_forward_hook(change).remove


def _hook_embedding(module: Table, uses: Sequence[Use[Change]]) -> Iterator[Callable[[], object]]:
    """Ids of a vocabulary of an adapter's own may not be the base's: the base looks up another for those."""
    given: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        given[:] = inputs
        return (inputs[0].clamp(max=module.shape[0] - 1),)

    def change(_module: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return _changed(given.pop(), y, uses)

    yield module.register_forward_pre_hook(keep).remove
    yield module.register_forward_hook(change).remove


def _changed(x: Tensor, y: Tensor, uses: Sequence[Use[Change]]) -> Tensor:
    """Of inputs and outputs [1, tokens, ...], as transformers has them."""
    made = changed(x.flatten(0, 1), y.flatten(0, 1), uses)
    return made.view(*y.shape[:2], *made.shape[1:])
