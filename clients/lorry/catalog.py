"""The catalogue's calls, one method each: bases, versions, adapters, aliases, verdicts, events.

Owns the pythonic spelling of CatalogService. Answers are the messages of lorry.v1. Does not know
bytes, and repeats nothing that the channel does not repeat by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from lorry.connection import Connection, received
from lorry.errors import DigestMismatch, IncompatibleAdapter
from lorry.format.base import BaseFacts
from lorry.format.compatibility import CarryOver, refuse
from lorry.format.manifest import ManifestFile, Recipe
from lorry.format.reference import parse_reference
from lorry.recipe import WrittenRecipe, written
from lorry.retry import Patience
from lorry.rpc.calls import translated
from lorry.rpc.convert import base_to_pb, carry_over_to_pb, file_to_pb, recipe_to_pb
from lorry.rpc.credentials import Credentials
from lorry.v1 import catalog_pb2 as pb
from lorry.v1.catalog_pb2_grpc import CatalogServiceStub
from lorry.v1.types_pb2 import Adapter, Alias, BaseModel, Version


class CatalogCalls(Connection):
    """CatalogService. Every method raises what its rpc documents, as a class of lorry.errors."""

    def __init__(self, address: str, *, timeout: float, **credentials: Unpack[Credentials]) -> None:
        super().__init__(address, timeout=timeout, **credentials)
        self._catalog = CatalogServiceStub(self._channel)

    async def register_base_model(
        self,
        name: str,
        facts: BaseFacts,
        *,
        known_as: Sequence[str] = (),
        derived_from: str = "",
        carry_over: CarryOver = CarryOver.REFUSE,
    ) -> BaseModel:
        """Make a base known; the same base again adds the `known_as` names, and nothing else.

        derived_from: base_id of the base that it is a variant of. carry_over: whether adapters of
        the bases that it descends from may be served on it. Raises BaseConflict.
        """
        base = base_to_pb(facts, name, known_as, derived_from, carry_over)
        answer = await self._call(self._catalog.RegisterBaseModel, pb.RegisterBaseModelRequest(base_model=base))
        return answer.base_model

    async def base_model(self, name: str) -> BaseModel:
        """One base by name, known_as name or base_id, its module table included. Raises BaseNotFound."""
        answer = await self._call(self._catalog.GetBaseModel, pb.GetBaseModelRequest(base_model=name))
        return answer.base_model

    def base_models(self) -> AsyncIterator[BaseModel]:
        """All bases by name, without their module tables."""
        return self._listed(self._catalog.ListBaseModels, pb.ListBaseModelsRequest(), lambda page: page.base_models)

    async def update_base_model(
        self, name: str, *, derived_from: str | None = None, carry_over: CarryOver | None = None
    ) -> BaseModel:
        """Change the family of a base (by name or base_id): write what is not None.

        derived_from: base_id of the base that it is a variant of, empty for none. Stored verdicts
        follow. Raises BaseNotFound, InvalidInput where it would descend from itself.
        """
        written = {"derived_from": derived_from, "carry_over": carry_over}
        request = pb.UpdateBaseModelRequest(
            base_model=BaseModel(
                name=name,
                derived_from=derived_from or "",
                carry_over=carry_over_to_pb(carry_over or CarryOver.REFUSE),
            ),
            update_mask=FieldMask(paths=[path for path, value in written.items() if value is not None]),
        )
        return (await self._call(self._catalog.UpdateBaseModel, request)).base_model

    async def create_version(  # noqa: PLR0913 - the fields of the request, all but two with defaults
        self,
        adapter: str,
        files: Sequence[ManifestFile],
        *,
        base: str = "",
        parents: Sequence[str] = (),
        recipe: Recipe | None = None,
        expected_digest: str = "",
        alias: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        signatures: Sequence[bytes] = (),
    ) -> Version:
        """Publish a version out of blobs that are stored already; `push` does the whole way.

        signatures: DSSE envelopes; without files they are added to the version of `expected_digest`.
        Idempotent but for the alias: where that is given a cut connection is not tried again, since somebody else may
        have moved it meanwhile. Raises MissingBlobs, InvalidAdapter, UnsupportedAdapter, IncompatibleAdapter,
        BaseNotFound, ParentNotFound, InvalidSignature, SignatureRequired, QuotaExceeded.
        """
        request = pb.CreateVersionRequest(
            adapter=adapter,
            files=[file_to_pb(file) for file in files],
            base_model=base,
            parents=parents,
            recipe=None if recipe is None else recipe_to_pb(recipe),
            expected_digest=expected_digest,
            alias=alias,
            description=description,
            labels=labels,
            signatures=signatures,
        )
        if alias:
            return (await self._call(self._catalog.CreateVersion, request)).version
        patience = Patience(lambda: 0).retrying()
        return (await patience(self._call, self._catalog.CreateVersion, request)).version

    async def version(self, reference: str) -> Version:
        """One version, yanked or not. Raises VersionNotFound, DigestMismatch."""
        version = (await self._call(self._catalog.GetVersion, pb.GetVersionRequest(adapter=reference))).version
        _check_pinned(reference, version.digest)
        return version

    def versions(self, adapter: str, *, filter: str = "") -> AsyncIterator[Version]:  # noqa: A002 - the contract's word
        """The versions of an adapter, newest first; see ListVersionsRequest.filter.

        Raises AdapterNotFound, InvalidFilter.
        """
        request = pb.ListVersionsRequest(adapter=adapter, filter=filter)
        return self._listed(self._catalog.ListVersions, request, lambda page: page.versions)

    async def yank(self, reference: str, reason: str) -> Version:
        """Hide a version from resolution by name; by digest it still resolves."""
        request = pb.YankVersionRequest(adapter=reference, reason=reason)
        return (await self._call(self._catalog.YankVersion, request)).version

    async def delete_version(self, reference: str, *, force: bool = False) -> pb.DeleteVersionResponse:
        """Delete a version. Raises VersionInUse where an alias, a lease or a child needs it, unless forced."""
        return await self._call(self._catalog.DeleteVersion, pb.DeleteVersionRequest(adapter=reference, force=force))

    async def adapter(self, name: str) -> Adapter:
        """One adapter. Raises AdapterNotFound."""
        return (await self._call(self._catalog.GetAdapter, pb.GetAdapterRequest(adapter=name))).adapter

    def adapters(self, *, filter: str = "", namespace: str = "") -> AsyncIterator[Adapter]:  # noqa: A002 - the contract's word
        """Adapters by namespace and name; see ListAdaptersRequest.filter. Raises InvalidFilter."""
        request = pb.ListAdaptersRequest(namespace=namespace, filter=filter)
        return self._listed(self._catalog.ListAdapters, request, lambda page: page.adapters)

    async def update_adapter(
        self,
        name: str,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        keep_last: int | None = None,
        expected_revision: int = 0,
    ) -> Adapter:
        """Write those that are not None; `labels` replaces all of them. `keep_last`: see Adapter, 0 keeps all.

        Raises RevisionConflict where `expected_revision` is not 0 and not the stored one.
        """
        adapter = await self.adapter(name)
        written = {"description": description, "labels": labels, "keep_last": keep_last}
        request = pb.UpdateAdapterRequest(
            adapter=Adapter(
                namespace=adapter.namespace,
                name=adapter.name,
                description=description or "",
                labels=labels,
                keep_last=keep_last or 0,
                revision=expected_revision,
            ),
            update_mask=FieldMask(paths=[path for path, value in written.items() if value is not None]),
        )
        return (await self._call(self._catalog.UpdateAdapter, request)).adapter

    async def delete_adapter(self, name: str, *, force: bool = False) -> pb.DeleteAdapterResponse:
        """Delete an adapter with all versions.

        Raises VersionInUse where a lease, or a child elsewhere, needs one, unless forced.
        """
        return await self._call(self._catalog.DeleteAdapter, pb.DeleteAdapterRequest(adapter=name, force=force))

    async def set_alias(self, reference: str, alias: str, *, expected_revision: int | None = None) -> Alias:
        """Point an alias to a version. `expected_revision` 0: it must not exist yet. Raises RevisionConflict."""
        request = pb.SetAliasRequest(adapter=reference, alias=alias, expected_revision=expected_revision)
        return (await self._call(self._catalog.SetAlias, request)).alias

    async def rollback_alias(self, adapter: str, alias: str, *, expected_revision: int | None = None) -> Alias:
        """Point an alias to where it pointed before its last move; a second rollback goes forth again.

        Raises AliasNotFound, NoEarlierVersion, VersionNotFound, VersionYanked, RevisionConflict.
        """
        request = pb.RollbackAliasRequest(adapter=adapter, alias=alias, expected_revision=expected_revision)
        return (await self._call(self._catalog.RollbackAlias, request)).alias

    async def delete_alias(self, adapter: str, alias: str, *, expected_revision: int | None = None) -> None:
        """Delete an alias; its history stays. Raises AliasNotFound, RevisionConflict."""
        request = pb.DeleteAliasRequest(adapter=adapter, alias=alias, expected_revision=expected_revision)
        await self._call(self._catalog.DeleteAlias, request)

    def aliases(self, adapter: str, *, history_of: str = "") -> AsyncIterator[Alias]:
        """The aliases of an adapter, or the moves of the one in `history_of`, newest first."""
        request = pb.ListAliasesRequest(adapter=adapter, history_of=history_of)
        return self._listed(self._catalog.ListAliases, request, lambda page: page.aliases)

    async def lineage(self, reference: str, *, depth: int = 0) -> pb.GetLineageResponse:
        """Where a version comes from and what was made out of it, up to `depth` generations away (0: 10).

        Raises VersionNotFound, DigestMismatch.
        """
        found = await self._call(self._catalog.GetLineage, pb.GetLineageRequest(adapter=reference, depth=depth))
        for itself in found.nodes[:1]:
            _check_pinned(reference, itself.digest)
        return found

    async def recipe(self, reference: str) -> WrittenRecipe:
        """How a combination was made, its sources as references that mean the same versions for good.

        Raises VersionNotFound where a source was deleted or may not be read, InvalidCombination where the
        version is no combination.
        """
        return written(reference, await self.lineage(reference, depth=1))

    async def renew_leases(
        self, holder: str, references: Sequence[str], *, ttl: timedelta | None = None
    ) -> pb.RenewLeasesResponse:
        """Hold these versions (`namespace/name@sha256:...`) in the place of all that the holder held.

        ttl: how long without being renewed, 1 s to 1 h; None means 60 s. Raises InvalidDigest, InvalidInput.
        """
        request = pb.RenewLeasesRequest(holder=holder, adapters=references)
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        return await self._call(self._catalog.RenewLeases, request)

    def leases(self, adapter: str) -> AsyncIterator[pb.Lease]:
        """Who uses the versions of an adapter now, by holder and number. Raises AdapterNotFound."""
        return self._listed(self._catalog.ListLeases, pb.ListLeasesRequest(adapter=adapter), lambda page: page.leases)

    async def resolve(self, reference: str) -> Version:
        """What the reference means now.

        Raises AdapterNotFound, VersionNotFound, AliasNotFound, VersionYanked, DigestMismatch.
        """
        version = (await self._call(self._catalog.Resolve, pb.ResolveRequest(adapter=reference))).version
        _check_pinned(reference, version.digest)
        return version

    async def check_compatibility(self, subject: str | pb.AdapterOutline, base: str) -> pb.CheckCompatibilityResponse:
        """The verdict on a published version, or on an outline (`lorry.transfer.outline` makes one of a folder)."""
        request = pb.CheckCompatibilityRequest(base_model=base)
        if isinstance(subject, str):
            request.adapter = subject
        else:
            request.outline.CopyFrom(subject)
        return await self._call(self._catalog.CheckCompatibility, request)

    async def demand_compatible(self, subject: str | pb.AdapterOutline, base: str) -> None:
        """As `check_compatibility`: raise IncompatibleAdapter, with every reason, where the verdict is no."""
        verdict = await self.check_compatibility(subject, base)
        refuse(verdict.findings, base)
        if not verdict.compatible:
            raise IncompatibleAdapter(f"the registry says that the adapter does not fit {base}, and gives no reason")

    def verdicts(self, reference: str) -> AsyncIterator[pb.Verdict]:
        """The verdict on a published version for each registered base, by name. Raises VersionNotFound."""
        return self._listed(
            self._catalog.ListVerdicts, pb.ListVerdictsRequest(adapter=reference), lambda page: page.verdicts
        )

    def watch(self, *, resume_token: str = "", namespace: str = "") -> AsyncGenerator[pb.WatchResponse, None]:
        """Events in commit order, from behind `resume_token` on; without end.

        Of namespaces that the caller may read. Raises InvalidResumeToken, ResumeTokenExpired (some
        were missed: read the state again), PermissionDenied, Draining. Go on with the last event's token.
        """
        return received(self._catalog.Watch(pb.WatchRequest(resume_token=resume_token, namespace=namespace)))

    async def listen(self, *, resume_token: str = "", namespace: str = "") -> AsyncGenerator[pb.WatchResponse, None]:
        """As `watch`, returned once the registry has fixed where it begins: nothing that happens later is missed."""
        call = self._catalog.Watch(pb.WatchRequest(resume_token=resume_token, namespace=namespace))
        with translated():
            await call.wait_for_connection()
        return received(call)


def _check_pinned(reference: str, answered: str) -> None:
    """A digest says which bytes are meant: no registry can say otherwise."""
    pinned = parse_reference(reference).digest
    if pinned not in (None, answered):
        raise DigestMismatch(f"asked for {pinned}, the registry answered {answered}")
