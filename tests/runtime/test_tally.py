from __future__ import annotations

from compute_worker.runtime.api import Tier
from compute_worker.runtime.tally import Busiest, Spread, Uses
from tests.support.toy_world import World, call


def test_a_spread_counts_values_by_bound() -> None:
    spread = Spread((1, 2))
    for value in (0.5, 1, 1.5, 3):
        spread.add(value)
    assert (spread.counts, spread.total) == ([2, 1, 1], 6)


def busiest(digests: str, named: int, **sizes: int) -> tuple[dict[str, int], int]:
    """The named digests' counts and the others' together, after one request by each letter."""
    requests = Busiest[str, Uses](Uses, named, **sizes)
    for digest in digests:
        requests.of(digest).count += 1
    assert len(requests._heat) <= sizes.get("candidates", 1_000)
    return {digest: uses.count for digest, uses in requests.named.items()}, requests.others.count


def test_the_busiest_are_named_and_the_others_counted_together() -> None:
    assert busiest("aaabbc", 2) == ({"a": 3, "b": 2}, 1)


def test_who_becomes_busier_takes_the_place_of_the_least_busy() -> None:
    # The first c went to the others; the second made it busier than b.
    assert busiest("aaabccc", 2) == ({"a": 3, "c": 2}, 1)


def test_no_more_are_named_however_many_come() -> None:
    named, _ = busiest("".join(chr(number % 50 + 65) for number in range(1_000)), 3, candidates=10)
    assert len(named) == 3


async def test_where_adapters_were_found_and_what_that_took_is_counted(world: World) -> None:
    for name in ("a", "b", "c"):
        world.registry.add(name, rank=6)
        await world.runtime.load(name)  # the pool has room for two
    await world.runtime.load("c")
    await world.runtime.load("a")
    figures = world.runtime.figures()
    assert figures.tally.found == {Tier.GONE: 3, Tier.POOL: 1, Tier.HOST: 1}
    assert figures.tally.evicted == {Tier.POOL: 2}
    assert {tier: sum(spread.counts) for tier, spread in figures.tally.loads.items()} == {
        Tier.DISK: 4,  # the configuration of all three is one file
        Tier.HOST: 3,
        Tier.POOL: 4,
    }
    assert figures.tiers == {Tier.POOL: 2, Tier.HOST: 1}


async def test_steps_tokens_and_requests_are_counted(world: World) -> None:
    adapter = world.registry.add("a", rank=2)
    reply = await world.ask(call([1, 2, 3], "a", max_new=5))
    figures = world.runtime.figures()
    assert (figures.steps.prompt, figures.steps.drawn) == (3, reply.finished.completion_tokens)
    # The prompt's step draws the first token.
    assert sum(figures.steps.seconds.counts) == sum(figures.steps.rows.counts) == reply.finished.completion_tokens
    assert figures.requests.named == {adapter.digest: Uses(1)}
    assert (figures.running, figures.steps.failed) == (0, 0)
