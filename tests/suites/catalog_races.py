"""What a catalogue promises to many writers at once, in one process and in several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import Event, EventKind, Page
from lorry.errors import LorryError, ParentNotFound, RevisionConflict, VersionInUse
from tests.suites.catalog_values import a_base, a_version, adapter, everything, publish, ref

CAT = adapter("cat")
T = TypeVar("T")


def at_once(*calls: Callable[[], T]) -> list[T | LorryError]:
    """What each call answers or raises when all begin together."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | LorryError:
        barrier.wait()
        try:
            return call()
        except LorryError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


class RaceRules:
    @pytest.fixture
    def catalogs(self, catalog: Catalog, reopen: Callable[[], Catalog]) -> list[Catalog]:
        """Two on one database, as two processes have them."""
        return [catalog, reopen()]

    def test_of_32_who_publish_one_version_one_makes_it(self, catalogs: list[Catalog]) -> None:
        answers = at_once(*(lambda c=catalogs[n % 2]: c.create_version(a_version(alias="prod")) for n in range(32)))
        assert sorted(created for _, created in answers) == [False] * 31 + [True]
        assert len({(version.digest, version.number, version.created) for version, _ in answers}) == 1
        assert len(catalogs[0].events(0, None, 100)) == 2

    def test_32_versions_get_the_numbers_1_to_32(self, catalogs: list[Catalog]) -> None:
        answers = at_once(*(lambda n=n: catalogs[n % 2].create_version(a_version(seed=n)) for n in range(32)))
        assert sorted(version.number for version, _ in answers) == list(range(1, 33))
        assert all(created for _, created in answers)
        created = [e.number for e in catalogs[0].events(0, None, 100) if e.kind is EventKind.VERSION_CREATED]
        assert created == list(range(1, 33))

    def test_of_16_swaps_from_one_revision_one_wins(self, catalogs: list[Catalog]) -> None:
        for seed in range(16):
            publish(catalogs[0], seed=seed)
        catalogs[0].set_alias(ref("cat@1"), "prod", None)
        swaps = (lambda n=n: catalogs[n % 2].set_alias(ref(f"cat@{n + 2}"), "prod", 1) for n in range(15))
        answers = at_once(*swaps)
        assert [type(a) for a in answers].count(RevisionConflict) == 14
        (winner,) = [a for a in answers if not isinstance(a, LorryError)]
        assert winner.revision == 2
        assert catalogs[1].list_aliases(CAT, Page()).items == (winner,)

    def test_of_two_bases_one_gets_the_name(self, catalogs: list[Catalog]) -> None:
        answers = at_once(*(lambda n=n: catalogs[n % 2].add_base(a_base(n, "tiny")) for n in range(8)))
        assert sum(not isinstance(answer, LorryError) for answer in answers) == 1

    def test_a_parent_is_not_deleted_under_the_birth_of_a_child(self, catalogs: list[Catalog]) -> None:
        for n in range(8):
            parent = publish(catalogs[0], f"mother-{n}", seed=n)
            birth, death = at_once(
                lambda n=n, p=parent: publish(catalogs[0], f"child-{n}", 100 + n, parents=(p,)),
                lambda n=n: catalogs[1].delete_version(ref(f"mother-{n}@1"), force=False),
            )
            assert isinstance(birth, ParentNotFound) != isinstance(death, VersionInUse)

    def test_a_reader_of_events_misses_none_and_hears_none_twice(self, catalogs: list[Catalog]) -> None:
        done = threading.Event()
        heard: list[Event] = []

        def listen() -> None:
            while True:
                last_round = done.is_set()
                heard.extend(catalogs[1].events(heard[-1].sequence if heard else 0, None, 5))
                if last_round and heard[-1].sequence == catalogs[1].last_event():
                    return

        with ThreadPoolExecutor(1) as pool:
            listener = pool.submit(listen)
            try:
                at_once(*(lambda n=n: publish(catalogs[n % 2], f"a-{n}", n, alias="prod") for n in range(24)))
            finally:
                done.set()
            listener.result(60)
        assert heard == catalogs[0].events(0, None, 100)
        assert len(heard) == 48

    def test_a_list_read_under_writers_has_what_was_there_all_the_time_once(self, catalogs: list[Catalog]) -> None:
        steady = {f"steady-{n}" for n in range(12)}
        for n, name in enumerate(sorted(steady)):
            publish(catalogs[0], name, n)

        def churn() -> None:
            for n in range(12):
                publish(catalogs[0], f"s-{n}", 100 + n)
                catalogs[0].delete_adapter(adapter(f"s-{n}"), force=False)

        def read() -> list[str]:
            return [a.name for a in everything(lambda page: catalogs[1].list_adapters(None, (), page), size=2)]

        _, *lists = at_once(churn, read, read, read)
        for names in lists:
            assert names == sorted(set(names))
            assert steady <= set(names)

    def test_readers_do_not_wait_for_a_writer(self, catalogs: list[Catalog]) -> None:
        publish(catalogs[0])
        with catalogs[0]._database.write():  # a writer that has its turn and takes its time
            assert catalogs[0].resolve(ref("cat")) == catalogs[1].resolve(ref("cat"))
