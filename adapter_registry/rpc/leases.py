"""The calls of CatalogService that concern who uses a version now.

Owns their requests and answers, and that a holder's name is its own: what a caller holds under a name
nobody else can end, but whoever administers everything. Does not know how long leases are kept.
"""

from __future__ import annotations

from adapter_registry.domain.acting import EVERYWHERE, Permission, actor
from adapter_registry.rpc.answers import lease_answer
from adapter_registry.rpc.calls import Calls, Context
from adapter_registry.rpc.requests import leased, page_of, ttl_of
from adapter_registry.service.rules import check_holder
from lorry.format.reference import parse_adapter_name
from lorry.rpc.convert import timestamp_to_pb
from lorry.v1 import catalog_pb2 as pb


class LeaseCalls(Calls):
    """RenewLeases, ListLeases."""

    async def RenewLeases(self, request: pb.RenewLeasesRequest, context: Context) -> pb.RenewLeasesResponse:
        """Put these leases in the place of all that the holder has."""
        holder, ttl = _own(check_holder(request.holder)), ttl_of(request)
        renewal = await self._writes.run(self._catalog.renew_leases, holder, leased(request), ttl)
        return pb.RenewLeasesResponse(
            expire_time=timestamp_to_pb(renewal.expires),
            missing=[request.adapters[index] for index in renewal.missing],
            yanked=[request.adapters[index] for index in renewal.yanked],
        )

    async def ListLeases(self, request: pb.ListLeasesRequest, context: Context) -> pb.ListLeasesResponse:
        """A page of an adapter's leases, by holder and number."""
        adapter = parse_adapter_name(request.adapter)
        listing = await self._queries.run(self._catalog.list_leases, adapter, page_of(request))
        leases = [lease_answer(lease) for lease in listing.items]
        return pb.ListLeasesResponse(leases=leases, next_page_token=listing.next_token)


def _own(holder: str) -> str:
    """The holder's name with its principal before it; as it is where the caller could do as it likes anyway."""
    who = actor()
    return holder if who.rights.may(Permission.ADMIN, EVERYWHERE) else f"{who.via or who.principal}/{holder}"
