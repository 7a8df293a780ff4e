"""transformers without what only compiling, training and clusters need: 1 s of imports in place of 4 s.

Owns what is left out and how: a package whose own code runs when somebody first asks it for something (its
submodules are there at once), and two answers that transformers gets while it is imported, that there is neither
torch.distributed nor accelerate. Call it before anything imports transformers. Does not know models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

# What functions are marked with for torch's compiler, which takes 1.2 s with what it needs. Without the marks they
# could be compiled wrongly; the worker compiles nothing.
_COMPILER = "torch._dynamo"
_MARKS = ("disable", "assume_constant_result", "allow_in_graph", "disallow_in_graph")
# Both look through the files of all models for the names in them, 0.5 s each; who says in which module a name is
# needs neither.
_NAMES = {
    "transformers.modeling_utils": ("AttentionInterface", "PreTrainedModel"),
    "transformers.configuration_utils": ("PretrainedConfig",),
    "transformers.generation.configuration_utils": ("GenerationConfig",),
    "transformers.tokenization_utils_base": ("PreTrainedTokenizerBase",),
    "transformers.utils.quantization_config": ("GgufConfig",),
    "transformers.models.auto.configuration_auto": ("AutoConfig",),
    "transformers.models.auto.modeling_auto": ("AutoModelForCausalLM",),
    "transformers.models.auto.tokenization_auto": ("AutoTokenizer",),
    # These ask what there is, or have marks: the first is imported by every model's module.
    "transformers.generation.utils": (),
    "torch.nn.attention.varlen": (),
}
# What linears, embeddings and Conv1D draw their first weights with.
_DRAWING = ("normal_", "uniform_", "kaiming_uniform_")


def load(model: str) -> None:
    """Import of transformers what `_NAMES` says, unless it was imported already. model: what it is to load.

    Nothing is left out for a GGUF file, which transformers does not read without accelerate, nor where torchao is
    found: transformers imports that, and it needs the compiler's own code.
    """
    if "transformers" in sys.modules or model.endswith(".gguf") or find_spec("torchao") is not None:
        return
    _defer("transformers", {"__version__": version("transformers")})
    _defer("transformers.models", {})
    with _uncompiled(), _alone():
        for place, names in _NAMES.items():
            module = import_module(place)
            vars(sys.modules["transformers"]).update((name, getattr(module, name)) for name in names)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Within the block tensors without memory are made without sympy, which takes 0.6 s.

    Models are made of such tensors before their weights are read, and torch draws initial values for them and
    checks conditions and computes as if these might be formulas: nothing is drawn, what holds is not looked at
    twice, and what is made of numbers in order (frequencies) gets memory at once.
    """
    import torch
    from torch.nn import init

    replaced: list[tuple[ModuleType, str, Callable[..., Any]]] = [(init, name, _drawn) for name in _DRAWING]
    replaced += [(torch, "_check_with", _checked), (torch, "arange", _counted)]
    originals = [getattr(module, name) for module, name, _ in replaced]
    for (module, name, ours), original in zip(replaced, originals, strict=True):
        setattr(module, name, partial(ours, original))
    try:
        yield
    finally:
        for (module, name, _), original in zip(replaced, originals, strict=True):
            setattr(module, name, original)


def _drawn(draw: Callable[..., Any], tensor: Any, *options: object, **named: object) -> Any:
    return tensor if tensor.is_meta else draw(tensor, *options, **named)


def _checked(check: Callable[..., None], error: object, condition: object, message: object) -> None:
    if condition is not True:
        check(error, condition, message)


def _counted(arange: Callable[..., Any], *bounds: object, device: Any = None, **options: object) -> Any:
    import torch

    place = torch.get_default_device() if device is None else torch.device(device)
    return arange(*bounds, device="cpu" if place.type == "meta" else place, **options)


def _unmarked(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Callable[..., Any]:
    """A mark, with options or without, that changes nothing."""
    return _unmarked if function is None else function


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Within the block torch's compiler is there by name, with its marks and its submodules; then it is not loaded."""
    spec = find_spec(_COMPILER)
    if _COMPILER in sys.modules or spec is None:
        yield
        return
    package = module_from_spec(spec)
    vars(package).update(dict.fromkeys(_MARKS, _unmarked))
    sys.modules[_COMPILER] = package
    try:
        yield
    finally:
        del sys.modules[_COMPILER]
        vars(sys.modules["torch"]).pop("_dynamo", None)


@contextmanager
def _alone() -> Iterator[None]:
    """Within the block there are no other machines: torch.distributed takes 1 s, accelerate 0.5 s."""
    import torch.distributed

    available = torch.distributed.is_available
    accelerate = sys.modules.get("accelerate")
    torch.distributed.is_available = lambda: False
    sys.modules["accelerate"] = accelerate  # type: ignore[assignment] # None: as if it were not installed
    try:
        yield
    finally:
        torch.distributed.is_available = available
        if accelerate is None:
            del sys.modules["accelerate"]


def _defer(name: str, known: dict[str, object]) -> None:
    """Let a package be there, and its code run when it is first asked for something that is not in `known`."""
    spec = find_spec(name)
    if name in sys.modules or spec is None:
        return
    package = module_from_spec(spec)
    package.__class__ = _Deferred
    package.__dict__.update(known)
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


class _Deferred(ModuleType):
    """A package that has not run."""

    _lock = RLock()

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            spec = self.__dict__["__spec__"]
            if not name.startswith("__") and "_ran" not in self.__dict__:
                self._ran = True
                spec.loader.exec_module(self)
                return getattr(sys.modules[spec.name], name)
        current = sys.modules[spec.name]
        if current is self:
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")
        return getattr(current, name)  # it put another module in its place, as packages of transformers do
