"""Sequences of calls on a real registry and on the plain model: they never differ.

`make stateful` runs 2,000 of them (SEQUENCES) from a seed of one's own (SEED); the short form always
the same few.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import initialize, run_state_machine_as_test

from adapter_registry.blobs.s3_bucket import S3Settings
from tests.stateful.keeping import Keeping
from tests.stateful.reading import Reading
from tests.stateful.values import write_bundles
from tests.stateful.world import FileGround, ServedGround
from tests.stateful.writing import Writing
from tests.support.postgres import PostgresServer

# The short form has to end within some 40 s beside another test process on two cores.
_SEQUENCES = int(os.environ.get("LORRY_SEQUENCES", "12"))
_SEED = int(os.environ.get("LORRY_SEED", "1"))
# Every database and bucket is emptied or made anew, which takes longer than on files.
_SERVED_SHARE = 10
_STEPS = 16


class Registry(Writing, Reading, Keeping):
    """All rules."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has that: what is tested here is not the disk's durability."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


class Stocked(Registry):
    """Begins where the others do, but has to do it itself each time."""

    @initialize()
    def begin(self) -> None:
        self.stock()


def run(machine: Callable[[], Registry], sequences: int) -> None:
    """So many sequences; the first that differs is made as short as it gets, and printed."""
    print(f"{sequences} sequences of up to {_STEPS} calls, seed {_SEED}")  # noqa: T201 - to run them again
    Registry.outcomes.clear()
    run_state_machine_as_test(
        seed(_SEED)(machine),
        settings=settings(
            max_examples=sequences,
            stateful_step_count=_STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate, Phase.shrink],
            # A sequence starts a server and makes a hundred calls: slow for hypothesis, and meant so.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
    # A run that met nothing but refusals would prove little.
    assert Registry.outcomes["answered"] > sequences
    print(f"agreed on {Registry.outcomes.total()} calls: {Registry.outcomes.most_common()}")  # noqa: T201 - the figures


def test_sqlite_and_files_do_what_the_model_does(folder: Path) -> None:
    ground, bundles = FileGround(folder), write_bundles(folder / "bundles")
    first = Registry(ground, folder, bundles)
    first.stock()
    first.world.stop()
    ground.begin_with(first.folder, first.model)
    run(lambda: Registry(ground, folder, bundles), _SEQUENCES)


@pytest.mark.long  # on files the same calls run always
@pytest.mark.postgres
@pytest.mark.s3
def test_postgres_and_s3_do_what_the_model_does(
    folder: Path, postgres_server: PostgresServer, s3_settings: S3Settings
) -> None:
    ground = ServedGround(postgres_server, s3_settings)
    try:
        bundles = write_bundles(folder / "bundles")
        run(lambda: Stocked(ground, folder, bundles), max(1, _SEQUENCES // _SERVED_SHARE))
    finally:
        ground.close()
