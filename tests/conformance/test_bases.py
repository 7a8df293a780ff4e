"""Base models and their families: RegisterBaseModel, GetBaseModel, ListBaseModels, UpdateBaseModel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lorry.errors import (
    BaseConflict,
    BaseNotFound,
    InvalidDigest,
    InvalidFieldMask,
    InvalidInput,
    InvalidName,
    LorryError,
)
from lorry.format.digest import digest_of
from lorry.rpc.convert import base_from_pb, base_to_pb
from lorry.v1 import types_pb2
from tests.conformance.guest import BASE, BASE_FACTS, NOWHERE, Guest
from tests.support.adapters import base_for

KNOWN_AS = "conformance/known-as"
VARIANT = "conformance-variant"
WRONG = "conformance-wrong"
LINEAR = {"kind": types_pb2.MODULE_KIND_LINEAR, "in_features": 1, "out_features": 1}


async def test_a_base_is_read_by_name_by_known_name_and_by_id(operator: Guest) -> None:
    message = base_to_pb(BASE_FACTS, BASE, [KNOWN_AS])
    again = await operator.call("RegisterBaseModel", base_model=message)
    assert not again.created
    assert list(again.base_model.known_as) == [KNOWN_AS]
    for name in (BASE, KNOWN_AS, BASE_FACTS.base_id):
        base = (await operator.call("GetBaseModel", base_model=name)).base_model
        assert base_from_pb(base) == BASE_FACTS
        assert base.HasField("create_time")


async def test_bases_are_listed_by_name_without_their_modules(guest: Guest) -> None:
    listed = [base async for base in guest.sdk.base_models()]
    assert [base.name for base in listed] == sorted(base.name for base in listed)
    assert [len(base.modules) for base in listed if base.name == BASE] == [0]


async def test_a_name_of_another_base_is_a_conflict(operator: Guest) -> None:
    with pytest.raises(BaseConflict):
        await operator.call("RegisterBaseModel", base_model=base_to_pb(base_for(seed=1), BASE))


def base(**changes: Any) -> types_pb2.BaseModel:
    message = base_to_pb(BASE_FACTS, WRONG)
    message.base_id = digest_of(b"conformance: a base that cannot be right")
    for name, value in changes.items():
        if isinstance(value, list):
            message.ClearField(name)
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message


IMPOSSIBLE: list[tuple[types_pb2.BaseModel | None, type[LorryError]]] = [
    (None, InvalidInput),
    (base(name=""), InvalidName),
    (base(name="a/b"), InvalidName),
    (base(base_id="sha256:1"), InvalidDigest),
    (base(architecture_id=""), InvalidDigest),
    (base(derived_from="other"), InvalidDigest),
    (base(model_type=""), InvalidInput),
    (base(vocab_size=0), InvalidInput),
    (base(vocab_size=-1), InvalidInput),
    (base(known_as=["a\x00b"]), InvalidInput),
    (base(known_as=["x"] * 65), InvalidInput),
    (base(modules=[]), InvalidInput),
    (base(modules=[types_pb2.Module(name="b", **LINEAR), types_pb2.Module(name="a", **LINEAR)]), InvalidInput),
    (base(modules=[types_pb2.Module(name="a", **LINEAR)] * 2), InvalidInput),
    (base(modules=[types_pb2.Module(name="a", **(LINEAR | {"kind": 9}))]), InvalidInput),
    (base(modules=[types_pb2.Module(name="a", **(LINEAR | {"in_features": 0}))]), InvalidInput),
    (base(modules=[types_pb2.Module(name="a", **(LINEAR | {"experts": 2}))]), InvalidInput),
    (base(modules=[types_pb2.Module(name="a", **(LINEAR | {"kind": types_pb2.MODULE_KIND_EXPERTS}))]), InvalidInput),
]


async def test_a_base_that_cannot_be_right_is_refused(operator: Guest, subtests: pytest.Subtests) -> None:
    for message, error in IMPOSSIBLE:
        with subtests.test(message=message), pytest.raises(error):
            await operator.call("RegisterBaseModel", base_model=message)
    with pytest.raises(BaseNotFound):
        await operator.call("GetBaseModel", base_model=WRONG)


async def test_an_unknown_base_is_not_found(guest: Guest) -> None:
    for name in ("conformance-nothing", NOWHERE):
        with pytest.raises(BaseNotFound):
            await guest.call("GetBaseModel", base_model=name)


async def family(operator: Guest, **written: Any) -> types_pb2.BaseModel:
    """Change the family of the suite's variant."""
    answer = await operator.call(
        "UpdateBaseModel",
        base_model=types_pb2.BaseModel(name=VARIANT, **written),
        update_mask=FieldMask(paths=written),
    )
    changed: types_pb2.BaseModel = answer.base_model
    return changed


async def test_adapters_cross_a_family_where_the_variant_lets_them(operator: Guest) -> None:
    variant = replace(BASE_FACTS, base_id=digest_of(b"conformance: a variant"))
    await operator.call("RegisterBaseModel", base_model=base_to_pb(variant, VARIANT))
    await family(operator, derived_from="", carry_over=types_pb2.CARRY_OVER_REFUSE)
    await operator.publish("pirate")

    async def fits() -> bool:
        verdicts = (await operator.call("ListVerdicts", adapter="pirate", page_size=1_000)).verdicts
        (stored,) = [verdict.compatible for verdict in verdicts if verdict.base_model == VARIANT]
        asked = await operator.call("CheckCompatibility", adapter="pirate", base_model=VARIANT)
        assert asked.compatible == stored
        return bool(stored)

    assert not await fits()
    declared = {"derived_from": BASE_FACTS.base_id, "carry_over": types_pb2.CARRY_OVER_ALLOW}
    for _ in range(2):  # the second time changes nothing
        changed = await family(operator, **declared)
        assert (changed.derived_from, changed.carry_over) == tuple(declared.values())
    assert await fits()
    await family(operator, carry_over=types_pb2.CARRY_OVER_REFUSE)
    assert not await fits()


async def test_a_family_that_cannot_be_is_refused(operator: Guest) -> None:
    for fields, error in (
        ({"base_model": types_pb2.BaseModel(name="conformance-nothing"), "paths": ["carry_over"]}, BaseNotFound),
        ({"base_model": types_pb2.BaseModel(name=BASE), "paths": []}, InvalidFieldMask),
        ({"base_model": types_pb2.BaseModel(name=BASE), "paths": ["vocab_size"]}, InvalidFieldMask),
        (
            {"base_model": types_pb2.BaseModel(name=BASE, derived_from=BASE_FACTS.base_id), "paths": ["derived_from"]},
            InvalidInput,
        ),
    ):
        mask = FieldMask(paths=fields.pop("paths"))
        with pytest.raises(error):
            await operator.call("UpdateBaseModel", update_mask=mask, **fields)
