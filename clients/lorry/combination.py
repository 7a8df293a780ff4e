"""A combination's request out of a method's name and parameters.

Owns nothing but the spelling: which methods there are and what each takes is read from the
contract's CombineRequest. The worker judges values.
"""

from __future__ import annotations

from typing import TypeAlias

from lorry.errors import InvalidCombination
from lorry.selection import Adapters, weighted
from lorry.v1 import residency_pb2 as pb

Parameter: TypeAlias = "float | int | str | None"

_METHODS = {field.name: field for field in pb.CombineRequest.DESCRIPTOR.oneofs_by_name["method"].fields}
METHODS = tuple(_METHODS)
_MESSAGES = [field.message_type for field in _METHODS.values() if field.message_type is not None]
PARAMETERS = frozenset(name for message in _MESSAGES for name in message.fields_by_name)
# The wire cannot tell an unset density from 0, which keeps nothing.
_REQUIRED = "density"


def combine_request(
    sources: Adapters, method: str, parameters: dict[str, Parameter], publish: pb.PublishTarget | None
) -> pb.CombineRequest:
    """The request. Parameters that are None are left out. Raises InvalidCombination on a name that is not there."""
    if method not in _METHODS:
        raise InvalidCombination(f"expected a method among {', '.join(METHODS)}, got {method!r}")
    request = pb.CombineRequest(sources=weighted(sources), publish=publish)
    target = getattr(request, method)
    target.SetInParent()
    known = list(target.DESCRIPTOR.fields_by_name)
    given = {name: value for name, value in parameters.items() if value is not None}
    if unknown := given.keys() - set(known):
        raise InvalidCombination(
            f"{method} takes {', '.join(known) or 'no parameters'}, got {', '.join(sorted(unknown))}"
        )
    if _REQUIRED in known and _REQUIRED not in given:
        raise InvalidCombination(f"{method} needs a {_REQUIRED}")
    for name, value in given.items():
        _set(target, name, value)
    return request


def _set(target: object, name: str, value: Parameter) -> None:
    try:
        setattr(target, name, f"MAJORITY_SIGN_{value}".upper() if name == "majority_sign" else value)
    except (TypeError, ValueError) as error:
        raise InvalidCombination(f"{name}: {error}") from error
