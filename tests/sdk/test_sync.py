from __future__ import annotations

import inspect
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import lorry
from lorry import sync
from lorry.errors import AdapterNotFound, DeadlineExceeded, Unavailable
from tests.support.adapters import BASE_NAME, base_for, write_adapter
from tests.support.blocking import blocking
from tests.support.registry import running_registry


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that knows a base; every test publishes in a namespace of its own."""
    with blocking(running_registry(tmp_path_factory.mktemp("registry"))) as address:
        with sync.RegistryClient(address) as client:
            client.register_base_model(BASE_NAME, base_for())
        yield address


def public(cls: type) -> set[str]:
    return {name for name, value in inspect.getmembers(cls, callable) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("plain", "asynchronous"),
    [(sync.RegistryClient, lorry.RegistryClient), (sync.WorkerClient, lorry.WorkerClient)],
)
def test_the_sync_face_has_every_method(plain: type, asynchronous: type) -> None:
    assert public(plain) == public(asynchronous)


def test_a_whole_round_needs_no_event_loop(address: str, tmp_path: Path) -> None:
    with sync.RegistryClient(address) as client:
        pushed = client.push(write_adapter(tmp_path / "in"), "round/pirate", base=BASE_NAME)
        assert [adapter.name for adapter in client.adapters(namespace="round")] == ["pirate"]
        assert client.pull("round/pirate", tmp_path / "out").digest == pushed.digest


def test_errors_are_the_same_classes(address: str) -> None:
    with sync.RegistryClient(address) as client, pytest.raises(AdapterNotFound):
        client.adapter("nobody")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        with sync.RegistryClient(place) as client, pytest.raises(DeadlineExceeded):
            client.within(0.2).adapter("nobody")  # it listens, and never says a word


def test_a_stream_may_be_left_at_any_item(address: str, tmp_path: Path) -> None:
    with sync.RegistryClient(address) as client:
        client.push(write_adapter(tmp_path / "in", seed=4), "watched/pirate")
        for event in client.watch(resume_token="0", namespace="watched"):  # noqa: S106 - a place in the stream
            assert event.version_created.number == 1
            break  # the watch itself never ends


def test_a_worker_that_is_not_there_is_unavailable() -> None:
    with sync.WorkerClient("127.0.0.1:1", timeout=5) as client:
        with pytest.raises(Unavailable):
            client.generate("Hello").text()
        with pytest.raises(Unavailable):
            list(client.routes())
