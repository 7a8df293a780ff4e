"""Module by module: does what the adapter changes exist in the base, in this shape?

Owns the comparison of each part of an adapter with the base's module table, and the rule for another
vocabulary. Does not know which base an adapter was made for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from lorry.format.base import BaseFacts, BaseModule, ModuleKind
from lorry.format.facts import AdaptedExperts, AdaptedModule, AdapterFacts, SavedModule, TrainedBias, TrainedTokens
from lorry.format.findings import Code, Finding

Table: TypeAlias = Mapping[str, BaseModule]

# How many names a message lists.
_LISTED = 3


def misfits(facts: AdapterFacts, base: BaseFacts) -> Iterator[Finding]:
    """Every reason, and every remark, on what the adapter changes."""
    stacks = {module.name: module for module in base.modules if module.kind is ModuleKind.EXPERTS}
    base = replace(base, modules=tuple(module for module in base.modules if module.name not in stacks))
    table = {module.name: module for module in base.modules}
    for module in facts.modules:
        yield from _module(module, table, base)
    for saved in facts.saved:
        yield from _saved(saved, table, base)
    yield from _vocabulary(facts, base)
    for tokens in facts.tokens:
        yield from _tokens(tokens, facts, table, base)
    for bias in facts.biases:
        yield from _bias(bias, table)
    yield from _unlisted(facts, table)
    if stacks:
        for experts in facts.experts:
            yield from _experts(experts, stacks.get(experts.path))
    else:
        yield from _left("experts", [experts.path for experts in facts.experts])
    yield from _invocation(facts, base)


def _module(module: AdaptedModule, table: Table, base: BaseFacts) -> Iterator[Finding]:
    target = table.get(module.name)
    if target is None:
        yield _unknown(module.name)
    elif module.embedding != (target.kind is ModuleKind.EMBEDDING):
        theirs, ours = ("a linear layer", "an embedding") if module.embedding else ("an embedding", "a linear layer")
        message = f"{module.name} is {theirs} in the base, the adapter has the matrices of {ours}"
        yield Finding(Code.UNSUPPORTED_VARIANT, message, module.name)
    else:
        yield from _shape(module, target, base)


def _shape(module: AdaptedModule, target: BaseModule, base: BaseFacts) -> Iterator[Finding]:
    expected, came = (target.in_features, target.out_features), (module.in_features, module.out_features)
    if expected != came:
        # An embedding and the output head are as wide as the vocabulary: there another width is another vocabulary.
        side = 0 if module.embedding else 1
        end = expected[1 - side] == came[1 - side] and expected[side] == base.vocab_size
        yield Finding(
            Code.VOCABULARY_MISMATCH if end else Code.SHAPE_MISMATCH,
            f"{module.name}: the base has {_arrow(expected)} features, the adapter was made for {_arrow(came)}",
            module.name,
        )
    if module.rank > min(expected):
        yield Finding(
            Code.RANK_MISMATCH,
            f"{module.name}: rank {module.rank} is more than the module's smaller side, {min(expected)} features",
            module.name,
            warning=True,  # a wide `cat` is exact all the same; it only takes more rows than its delta needs
        )


def _saved(module: SavedModule, table: Table, base: BaseFacts) -> Iterator[Finding]:
    target = table.get(module.name)
    if target is None:
        if any(len(shape) > 1 for _, shape in module.parameters):
            yield _unknown(module.name)
        return
    for parameter, shape in module.parameters:
        expected = _parameter(target, parameter)
        # The rows of another vocabulary are judged all together.
        if shape != expected and not (_is_end(target, base) and expected and shape[1:] == expected[1:]):
            yield _misshapen(module.name, parameter, expected, shape)


def _vocabulary(facts: AdapterFacts, base: BaseFacts) -> Iterator[Finding]:
    """Another number of tokens is sound where it is the same at both ends of the model."""
    ends = {module.name: module for module in base.modules if _is_end(module, base)}
    rows = [
        (module.name, shape[0])
        for module in facts.saved
        if module.name in ends
        for parameter, shape in module.parameters
        if _parameter(ends[module.name], parameter)
    ]
    resized = [(name, count) for name, count in rows if count != base.vocab_size]
    if resized and (ends.keys() != {name for name, _ in rows} or len({count for _, count in rows}) > 1):
        name, count = resized[0]
        yield Finding(
            Code.VOCABULARY_MISMATCH,
            f"{name}: {count} tokens, the base has {base.vocab_size}; expected as many in each of {', '.join(ends)}",
            name,
        )


def _tokens(tokens: TrainedTokens, facts: AdapterFacts, table: Table, base: BaseFacts) -> Iterator[Finding]:
    target = table.get(tokens.name)
    if target is None:
        yield _unknown(tokens.name)
        return
    if not (target.kind is ModuleKind.EMBEDDING or _is_end(target, base)):
        yield Finding(Code.UNSUPPORTED_VARIANT, f"{tokens.name} is no embedding: it has no tokens", tokens.name)
        return
    rows, features = _parameter(target, "weight")
    own = [dict(module.parameters).get("weight", (rows,)) for module in facts.saved if module.name == tokens.name]
    rows = own[0][0] if own else rows
    if features != tokens.features:
        yield _misshapen(tokens.name, "row", (features,), (tokens.features,))
    if max(tokens.indices) >= rows:
        message = f"{tokens.name}: token {max(tokens.indices)} was trained, the vocabulary has {rows}"
        yield Finding(Code.VOCABULARY_MISMATCH, message, tokens.name)


def _bias(bias: TrainedBias, table: Table) -> Iterator[Finding]:
    target = table.get(bias.name)
    if target is not None and _parameter(target, "bias") != (bias.features,):
        yield _misshapen(bias.name, "bias", _parameter(target, "bias"), (bias.features,))


def _unlisted(facts: AdapterFacts, table: Table) -> Iterator[Finding]:
    """Norms have vectors alone and are not in the table: only who holds the base can look."""
    vectors = [module.name for module in facts.saved if all(len(shape) == 1 for _, shape in module.parameters)]
    yield from _left("norms", [name for name in (*vectors, *(bias.name for bias in facts.biases)) if name not in table])


def _experts(experts: AdaptedExperts, target: BaseModule | None) -> Iterator[Finding]:
    if target is None:
        yield _unknown(experts.path)
        return
    expected, came = (
        f"{each.experts} experts of {_arrow((each.in_features, each.out_features))}" for each in (target, experts)
    )
    if expected != came:
        message = f"{experts.path}: the base has {expected} features, the adapter was made for {came}"
        yield Finding(Code.SHAPE_MISMATCH, message, experts.path)


def _left(what: str, names: Sequence[str]) -> Iterator[Finding]:
    if names:
        told = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        yield Finding(
            Code.UNKNOWN_MODULE,
            f"{told}: the table of the base has no {what}, a worker looks at them when it loads the adapter",
            warning=True,
        )


def _invocation(facts: AdapterFacts, base: BaseFacts) -> Iterator[Finding]:
    if max(facts.invocation, default=0) >= base.vocab_size:
        yield Finding(
            Code.VOCABULARY_MISMATCH,
            f"the invocation has token {max(facts.invocation)}, the base has {base.vocab_size} tokens",
        )


def _parameter(target: BaseModule, parameter: str) -> tuple[int, ...]:
    """The shape of a module's weight or bias, empty where a module of this kind has none."""
    if parameter == "bias":
        return () if target.kind is ModuleKind.EMBEDDING else (target.out_features,)
    shape = (target.out_features, target.in_features)
    return shape if target.kind is ModuleKind.LINEAR else shape[::-1]


def _is_end(target: BaseModule, base: BaseFacts) -> bool:
    """Whether it is the input embedding or the output head: it has a row for each token."""
    return target.kind is not ModuleKind.CONV1D and _parameter(target, "weight")[0] == base.vocab_size


def _unknown(name: str) -> Finding:
    return Finding(Code.UNKNOWN_MODULE, f"the base has no module {name}", name)


def _misshapen(name: str, what: str, expected: tuple[int, ...], came: tuple[int, ...]) -> Finding:
    has = f"a {what} of {list(expected)}" if expected else f"no {what}"
    return Finding(Code.SHAPE_MISMATCH, f"{name}: the base has {has}, the adapter one of {list(came)}", name)


def _arrow(features: tuple[int, int]) -> str:
    return f"{features[0]} -> {features[1]}"
