"""When a worker says that it is ready: once a generation has worked, as a caller's would."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from compute_worker.engine.engine import TransformersEngine
from lorry.errors import Internal
from tests.support.registry import running_registry
from tests.support.worker import running_worker


def broken(*_: object) -> None:
    raise RuntimeError("the device computes nothing")


async def test_a_worker_that_cannot_generate_is_never_ready_and_leaves_nothing_behind(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_registry(tmp_path / "registry") as registry:
        before = set(threading.enumerate())
        with monkeypatch.context() as patched:
            patched.setattr(TransformersEngine, "step", broken)
            with pytest.raises(Internal, match="the engine failed in a step"):
                async with running_worker(tmp_path / "worker", model, registry):
                    pytest.fail("it was ready")
        assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("lorry-")]
        async with running_worker(tmp_path / "worker", model, registry) as serving:  # the folder is free again
            assert serving.target
