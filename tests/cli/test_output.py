from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from lorry.cli import output
from lorry.v1 import access_pb2, admin_pb2, blob_pb2, catalog_pb2, inference_pb2, residency_pb2, types_pb2

CONTRACT = (access_pb2, admin_pb2, blob_pb2, catalog_pb2, inference_pb2, residency_pb2, types_pb2)


def test_messages_become_plain_documents(capsys: pytest.CaptureFixture[str]) -> None:
    resident = residency_pb2.Resident(
        digest="sha256:00",
        names=["a", "b"],
        tier=residency_pb2.TIER_POOL,
        hits=1 << 40,
        last_used_time=Timestamp(seconds=1),
    )
    output.say_json({"resident": resident})
    document = json.loads(capsys.readouterr().out)["resident"]
    assert document["names"] == ["a", "b"]
    assert (document["tier"], document["hits"], document["pinned"]) == ("TIER_POOL", 1 << 40, False)
    assert document["last_used_time"] == "1970-01-01T00:00:01Z"


def messages_of(descriptors: Any) -> Iterator[Any]:
    """Descriptors of messages, those within others too."""
    for descriptor in descriptors:
        if not descriptor.GetOptions().map_entry:
            yield descriptor
            yield from messages_of(descriptor.nested_types)


def some(field: Any) -> Any:
    """A value of a field, and no default."""
    if field.message_type is not None:
        return GetMessageClass(field.message_type)()
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    kinds = {FieldDescriptor.CPPTYPE_BOOL: True, FieldDescriptor.CPPTYPE_STRING: "text"}
    return b"\xff" if field.type == FieldDescriptor.TYPE_BYTES else kinds.get(field.cpp_type, 7)


def filled(descriptor: Any, field: Any) -> Message:
    """A message of which one field has a value."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (some(field.message_type.fields_by_name[name]) for name in ("key", "value"))
        return GetMessageClass(descriptor)(**{field.name: {key: value}})
    return GetMessageClass(descriptor)(**{field.name: [some(field)] if field.is_repeated else some(field)})


@pytest.mark.parametrize(
    "descriptor",
    [found for file in CONTRACT for found in messages_of(file.DESCRIPTOR.message_types_by_name.values())],
    ids=lambda descriptor: descriptor.full_name,
)
def test_every_field_of_every_message_of_the_contract_can_be_written(descriptor: Any) -> None:
    for field in descriptor.fields:
        # One field at a time: of several that exclude each other the last alone would be seen.
        document = output.plain(filled(descriptor, field))
        assert json.loads(json.dumps(document))[field.name] not in (None, [], 0), field.name


def test_bytes_are_text_where_they_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    output.say_json(types_pb2.Version(signatures=[b'{"payload":"\xc3\xa9"}', b"\xff\xfe"]))
    assert json.loads(capsys.readouterr().out)["signatures"] == ['{"payload":"\u00e9"}', "//4="]


def test_unset_is_not_the_same_as_zero() -> None:
    weighted = [types_pb2.WeightedAdapter(adapter="a"), types_pb2.WeightedAdapter(adapter="b", weight=0)]
    assert output.plain(weighted) == [{"adapter": "a"}, {"adapter": "b", "weight": 0}]


def test_of_several_messages_of_a_stream_the_one_that_came_is_written() -> None:
    message = inference_pb2.GenerateResponse(delta=inference_pb2.GenerateDelta(text="Arr"))
    assert output.plain(message) == {"delta": {"text": "Arr", "token_ids": [], "logprobs": [], "top_logprobs": []}}


def test_maps_are_written_in_order_of_their_keys() -> None:
    assert list(output.plain(types_pb2.Adapter(labels={"b": "2", "a": "1"}))["labels"]) == ["a", "b"]


def test_spans_are_written_as_protobuf_writes_them() -> None:
    ttl = Duration()
    ttl.FromTimedelta(timedelta(seconds=1.5))
    assert output.plain(residency_pb2.PinRequest(ttl=ttl))["ttl"] == "1.500s"


def test_an_enumeration_of_a_later_release_is_its_number() -> None:
    assert output.plain(types_pb2.Manifest(variant=77))["variant"] == "77"  # type: ignore[arg-type]
    assert output.enum_word(types_pb2.Manifest(variant=77), "variant") == "77"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "word"), [(types_pb2.VARIANT_RSLORA, "rslora"), (types_pb2.VARIANT_UNSPECIFIED, "")]
)
def test_people_read_enumerations_without_their_prefix(number: types_pb2.Variant.ValueType, word: str) -> None:
    assert output.enum_word(types_pb2.Manifest(variant=number), "variant") == word


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (487_424, "476.0 KiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert output.size(count) == text


def test_a_selection_for_people() -> None:
    adapters = [
        types_pb2.ResolvedAdapter(adapter="pirate", weight=1),
        types_pb2.ResolvedAdapter(adapter="j", weight=0.5),
    ]
    assert output.selection(adapters) == "pirate + 0.5 j"
    assert output.selection([]) == "(base)"


def test_other_peoples_text_drives_neither_the_terminal_nor_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(("description",), [["\x1b[2J[red]gone\n"]])
    output.show_facts([("description", "\x1b[2J[red]gone\n")])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.count("?[2J[red]gone?") == 2


def pretend_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def test_on_a_terminal_each_file_has_a_bar_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_a_terminal(monkeypatch)
    with output.bars("push") as progress:
        progress("adapter_model.safetensors", 512, 1024)
        progress("adapter_model.safetensors", 1024, 1024)
    out, err = capsys.readouterr()
    assert out == ""
    assert "push adapter_model.safetensors" in err


def test_on_a_terminal_a_spinner_leaves_stdout_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_a_terminal(monkeypatch)
    with output.spinner("loading [/x] \x1b[2J"):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert "loading [/x] ?[2J" in err


def test_a_pipe_sees_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with output.bars("push") as progress, output.spinner("loading"):
        progress("adapter_model.safetensors", 512, 1024)
    assert capsys.readouterr() == ("", "")
