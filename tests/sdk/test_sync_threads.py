"""lorry.sync among threads, forks and collections of garbage: each in a process of its own, which must end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lorry import sync
from tests.support.adapters import BASE_NAME, base_for
from tests.support.blocking import blocking
from tests.support.registry import running_registry
from tests.support.worker import running_worker, save_model

# A client that hangs does so for ever; a process takes two seconds, and more beside others.
PATIENCE = 60
BEGIN = """
import gc, hashlib, os, pathlib, sys, tempfile, threading
from lorry import errors, sync
registry, worker = (os.environ["LORRY_" + name] for name in ("REGISTRY", "WORKER"))
ITEM = {"prompt": "a", "continuation": "b"}
"""


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A registry that knows a base, and a worker."""
    folder = tmp_path_factory.mktemp("pair")
    with blocking(running_registry(folder / "registry")) as registry:
        with sync.RegistryClient(registry) as client:
            client.register_base_model(BASE_NAME, base_for())
        with blocking(running_worker(folder / "cache", save_model(folder / "model"), registry)) as serving:
            yield {"LORRY_REGISTRY": registry, "LORRY_WORKER": serving.target}


def said(script: str, addresses: dict[str, str]) -> list[str]:
    """What the script printed, line by line, once its process has ended well."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        env={**os.environ, **addresses, "GRPC_VERBOSITY": "ERROR"},  # it tells of every fork
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_threads_that_begin_together_share_one_loop(addresses: dict[str, str]) -> None:
    script = """
sys.setswitchinterval(1e-6)
ready, found = threading.Barrier(8), []
def ask():
    ready.wait()
    with sync.RegistryClient(registry) as client:
        found.extend(client.base_models())
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found), [thread.name for thread in threading.enumerate()].count("lorry-sync"))
"""
    assert said(script, addresses) == ["8 1"]


def test_a_stream_that_the_loops_own_thread_collects_holds_nobody_up(addresses: dict[str, str]) -> None:
    script = """
from lorry import background
client = sync.RegistryClient(registry)
def leave():
    cycle = [client.base_models()]
    cycle.append(cycle)
    next(cycle[0])
async def collect(): return gc.collect()
gc.disable()
leave()
background.wait(collect())
print(len(list(client.base_models())))
"""
    assert said(script, addresses) == ["1"]


def test_a_callback_on_the_loop_is_told_that_it_cannot_wait(addresses: dict[str, str]) -> None:
    script = """
client = sync.RegistryClient(registry)
file = pathlib.Path(tempfile.mkdtemp()) / "file"
file.write_bytes(b"some bytes")
def ask(*_):
    try: client.base_model("tiny")
    except errors.FailedPrecondition as error: print(error.reason, "callback" in error.message, flush=True)
client.upload(file, "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest(), progress=ask)
print(len(list(client.base_models())))
"""
    told = said(script, addresses)
    assert (set(told[:-1]), told[-1]) == ({"FAILED_PRECONDITION True"}, "1")


def test_a_stream_that_is_never_read_to_its_end_does_not_outlive_the_process(addresses: dict[str, str]) -> None:
    script = """
stream = sync.RegistryClient(registry).base_models()
print(next(stream).name)
"""
    assert said(script, addresses) == [BASE_NAME]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_of_a_process_that_used_it_is_refused(addresses: dict[str, str]) -> None:
    script = """
client = sync.RegistryClient(registry)
stream = client.base_models()
next(stream)
if os.fork() == 0:
    stream.close()
    for ask in (lambda: client.base_model("tiny"), lambda: sync.RegistryClient(registry)):
        try: ask()
        except errors.FailedPrecondition as error: print(error.reason, "fork" in error.message, flush=True)
    os._exit(0)
os.wait()
print(len(list(client.base_models())))
"""
    assert said(script, addresses) == ["FAILED_PRECONDITION True", "FAILED_PRECONDITION True", "1"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_may_be_the_first_to_use_it(addresses: dict[str, str]) -> None:
    script = """
child = os.fork()
print(len(list(sync.RegistryClient(registry).base_models())), flush=True)
if child: os.wait()
else: os._exit(0)
"""
    assert said(script, addresses) == ["1", "1"]


def test_items_that_come_slowly_hold_up_nobody_else(addresses: dict[str, str]) -> None:
    script = """
client, asked, answered = sync.WorkerClient(worker), threading.Event(), threading.Event()
def items():
    asked.set()
    print("answered meanwhile", answered.wait(10))
    yield ITEM
def look():
    asked.wait()
    client.capabilities()
    answered.set()
threading.Thread(target=look).start()
print(len(list(client.score(items()))))
"""
    assert said(script, addresses) == ["answered meanwhile True", "1"]


def test_items_may_come_from_a_client(addresses: dict[str, str]) -> None:
    script = """
client = sync.WorkerClient(worker)
items = ({**ITEM, "route": route.name} for route in client.routes())
print([score.route for score in client.score(items)])
class Asking(list):
    def __iter__(self):
        client.capabilities()
        return super().__iter__()
print([tried.index for tried in client.search(Asking([{}]), Asking([ITEM]))])
"""
    assert said(script, addresses) == ["['default']", "[0]"]


def test_a_score_counts_its_items_through_all_calls(addresses: dict[str, str]) -> None:
    script = """
from lorry.scoring import CALL_ITEMS
client = sync.WorkerClient(worker)
scores = client.score(ITEM for _ in range(CALL_ITEMS + 1))
print(sorted(score.index for score in scores) == list(range(CALL_ITEMS + 1)))
"""
    assert said(script, addresses) == ["True"]
