"""What every order of eviction must keep to: the tests that each policy runs, inherited from EvictionSuite.

A policy's test class gives one fixture, `policy`: a fresh one. Knows only the Protocol.
"""

from __future__ import annotations

from compute_worker.runtime.eviction import Eviction

MIB = 1 << 20


def order(policy: Eviction, *keys: str) -> list[str]:
    """The keys as they would leave."""
    return sorted(keys, key=policy.worth)


class EvictionSuite:
    """Inherit and give the fixture `policy`."""

    def test_of_things_alike_the_one_used_longest_ago_goes_first(self, policy: Eviction) -> None:
        for key in ("a", "b", "c"):
            policy.used(key, MIB, 0.1)
        assert order(policy, "c", "b", "a") == ["a", "b", "c"]
        for key in ("b", "c", "a"):
            policy.used(key, MIB, 0.1)
        assert order(policy, "a", "b", "c") == ["b", "c", "a"]

    def test_what_was_never_used_goes_before_all_others(self, policy: Eviction) -> None:
        policy.used("used", MIB, 0.0)
        assert order(policy, "used", "unknown") == ["unknown", "used"]

    def test_no_two_are_worth_the_same(self, policy: Eviction) -> None:
        for key in "abcdef":
            policy.used(key, MIB, 0.1)
        assert len({policy.worth(key) for key in "abcdef"}) == 6

    def test_asking_changes_nothing(self, policy: Eviction) -> None:
        policy.used("a", MIB, 0.1)
        policy.used("b", MIB, 0.1)
        before = policy.worth("a")
        assert [policy.worth(key) for key in ("unknown", "b", "a")][-1] == before

    def test_what_left_is_as_if_it_had_never_been_here(self, policy: Eviction) -> None:
        for _ in range(100):
            policy.used("popular", MIB, 0.1)
        policy.used("other", MIB, 0.1)
        policy.gone("popular", evicted=False)
        assert order(policy, "other", "popular") == ["popular", "other"]
        policy.used("popular", MIB, 0.1)
        policy.used("other", MIB, 0.1)
        assert order(policy, "popular", "other") == ["popular", "other"]

    def test_what_is_let_go_of_ages_nobody(self, policy: Eviction) -> None:
        policy.used("dear", MIB, 100.0)
        policy.used("kept", MIB, 0.2)
        policy.used("kept", MIB, 0.2)
        policy.gone("dear", evicted=False)
        policy.used("new", MIB, 0.1)
        policy.used("kept", MIB, 0.2)
        assert order(policy, "kept", "new") == ["new", "kept"]

    def test_letting_go_of_what_is_not_here_is_nothing(self, policy: Eviction) -> None:
        policy.used("a", MIB, 0.1)
        before = policy.worth("a")
        policy.gone("unknown", evicted=True)
        assert policy.worth("a") == before

    def test_however_popular_it_was_what_is_not_used_any_more_goes_in_the_end(self, policy: Eviction) -> None:
        kept = ["old"]
        for _ in range(50):
            policy.used("old", MIB, 0.5)
        for number in range(2_000):
            kept.append(str(number))
            policy.used(kept[-1], MIB, 0.1)
            if len(kept) > 8:
                kept.remove(first := min(kept, key=policy.worth))
                policy.gone(first, evicted=True)
        assert "old" not in kept
