"""Lists: filters, and pages that stay right while others write."""

from __future__ import annotations

from typing import Any

import pytest

from lorry.errors import InvalidFilter, InvalidInput, InvalidPageToken
from tests.conformance.guest import BASE, Guest

# Each list of the contract, with the field of its entries.
LISTS = {
    "ListBaseModels": "base_models",
    "ListVersions": "versions",
    "ListAdapters": "adapters",
    "ListAliases": "aliases",
    "ListVerdicts": "verdicts",
    "ListLeases": "leases",
    "ListNamespaces": "namespaces",
    "ListPrincipals": "principals",
    "ListAuditEntries": "entries",
}
OF_ADAPTER = {"ListVersions", "ListAliases", "ListVerdicts", "ListLeases"}
OF_OPERATOR = {"ListPrincipals", "ListAuditEntries"}


def scope(rpc: str) -> dict[str, str]:
    return {"adapter": "pirate"} if rpc in OF_ADAPTER else {}


@pytest.mark.parametrize("rpc", sorted(LISTS.keys() - OF_OPERATOR))
async def test_a_foreign_page_token_and_a_negative_size_are_refused(guest: Guest, rpc: str) -> None:
    await guest.publish("pirate")
    await refuses(guest, rpc)


@pytest.mark.parametrize("rpc", sorted(OF_OPERATOR))
async def test_an_operators_list_refuses_them_too(operator: Guest, rpc: str) -> None:
    await refuses(operator, rpc)


async def refuses(guest: Guest, rpc: str) -> None:
    for token in ("of-my-own", "x" * 10_000, "ٱ"):
        with pytest.raises(InvalidPageToken):
            await guest.call(rpc, page_token=token, **scope(rpc))
    with pytest.raises(InvalidInput):
        await guest.call(rpc, page_size=-1, **scope(rpc))
    await guest.call(rpc, page_size=1_000_000, **scope(rpc))


async def pages(guest: Guest, rpc: str, between: Any = None, **fields: Any) -> list[Any]:
    """All entries, two at a time; `between` happens behind the first page."""
    found, token = [], ""
    while True:
        page = await guest.call(rpc, page_size=2, page_token=token, **fields)
        entries = getattr(page, LISTS[rpc])
        assert 0 < len(entries) <= 2
        found += entries
        if between is not None and not token:
            await between()
        token = page.next_page_token
        if not token:
            return found


async def test_versions_are_listed_newest_first_whatever_is_published_meanwhile(operator: Guest) -> None:
    await operator.several(6)

    async def meanwhile() -> None:
        await operator.publish("pirate", 6)
        await operator.call("DeleteVersion", adapter="pirate@3")

    versions = await pages(operator, "ListVersions", meanwhile, adapter="pirate")
    assert [version.number for version in versions] == [6, 5, 4, 2, 1]


async def test_adapters_are_listed_by_name_whatever_comes_and_goes_meanwhile(operator: Guest) -> None:
    for name in ("b", "d", "f", "h", "j"):
        await operator.publish(name)

    async def meanwhile() -> None:
        for name in ("a", "c", "g"):
            await operator.publish(name)
        await operator.call("DeleteAdapter", adapter="h")

    adapters = await pages(operator, "ListAdapters", meanwhile)
    assert [adapter.name for adapter in adapters] == ["b", "d", "f", "g", "j"]


async def test_aliases_and_their_history_come_page_by_page(guest: Guest) -> None:
    await guest.several(3, alias="prod")
    for alias in ("c", "a", "b"):
        await guest.call("SetAlias", adapter="pirate@1", alias=alias)
    aliases = await pages(guest, "ListAliases", adapter="pirate")
    assert [alias.alias for alias in aliases] == ["a", "b", "c", "prod"]
    moves = await pages(guest, "ListAliases", adapter="pirate", history_of="prod")
    assert [move.number for move in moves] == [3, 2, 1]


async def test_leases_come_page_by_page(guest: Guest) -> None:
    versions = await guest.several(3)
    references = [f"pirate@{version.digest}" for version in versions]
    await guest.call("RenewLeases", holder=guest.namespace, adapters=references)
    leases = await pages(guest, "ListLeases", adapter="pirate")
    assert [lease.number for lease in leases] == [1, 2, 3]
    await guest.call("RenewLeases", holder=guest.namespace)


async def test_the_audit_log_comes_newest_first_page_by_page(operator: Guest) -> None:
    await operator.several(3)
    entries = await pages(operator, "ListAuditEntries", action="CreateVersion")
    told = [(entry.action, entry.name, entry.namespace) for entry in entries]
    assert told == [("CreateVersion", "pirate", operator.namespace)] * 3
    times = [entry.time.ToDatetime() for entry in entries]
    assert times == sorted(times, reverse=True)
    digest = entries[0].digest
    by_digest = (await operator.call("ListAuditEntries", digest=digest)).entries
    assert {entry.digest for entry in by_digest} == {digest}
    assert all(entry.request_id and entry.principal for entry in by_digest)


async def test_a_token_goes_with_the_arguments_it_was_given_for(guest: Guest) -> None:
    await guest.several(3)
    page = await guest.call("ListVersions", adapter="pirate", page_size=1, filter="rank>0")
    rest = await guest.call("ListVersions", adapter="pirate", page_token=page.next_page_token, filter="rank>0")
    assert [version.number for version in rest.versions] == [2, 1]
    with pytest.raises(InvalidPageToken):
        await guest.call("ListVersions", adapter="pirate", page_token=page.next_page_token)


async def test_versions_are_filtered(guest: Guest) -> None:
    first, _ = await guest.several(2)
    child = await guest.publish("pirate", 9, {"rslora": True}, parents=["pirate@1"])
    await guest.call("SetAlias", adapter="pirate@2", alias="prod")
    for terms, numbers in {
        "variant=rslora": [3],
        f"parent={first.digest}": [3],
        "alias=prod": [2],
        "alias!=prod AND module=q_proj": [3, 1],
        f"created<={child.create_time.ToJsonString()[:10]}": [3, 2, 1],
        f"fits={BASE}": [3, 2, 1],
        f"base!={BASE}": [],
    }.items():
        listed = (await guest.call("ListVersions", adapter="pirate", filter=terms)).versions
        assert [version.number for version in listed] == numbers, terms
    for broken in ("name=pirate", "labels.a=b", "created=soon"):
        with pytest.raises(InvalidFilter):
            await guest.call("ListVersions", adapter="pirate", filter=broken)


async def test_adapters_are_filtered(guest: Guest, other: Guest) -> None:
    await guest.publish("pirate")
    await guest.publish("json", 5, {"rslora": True}, labels={"kind": "format"})
    await other.publish("elsewhere")
    for terms, names in {
        "": ["json", "pirate"],
        "variant=rslora": ["json"],
        "name=pir*": ["pirate"],
        "labels.kind=format AND rank<=2": ["json"],
        "size<1": [],
    }.items():
        listed = (await guest.call("ListAdapters", filter=terms)).adapters
        assert [adapter.name for adapter in listed] == names, terms
    for broken in ("rank=", "owner=me", "rank~8"):
        with pytest.raises(InvalidFilter):
            await guest.call("ListAdapters", filter=broken)
    everywhere = [adapter async for adapter in guest.sdk.adapters(filter="name=elsewhere")]
    assert other.namespace in {adapter.namespace for adapter in everywhere}
