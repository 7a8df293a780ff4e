"""Signing what is published, and checking who signed it, from the caller's side.

Owns the manifest that a push is going to have, derived here so that its author can sign it, and the
check of what the registry answers: it is not believed. Does not know how an envelope is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorry.catalog import CatalogCalls
from lorry.errors import DigestMismatch, SignatureRequired
from lorry.format.bundle import Bundle
from lorry.format.manifest import Manifest, Recipe, build_manifest
from lorry.format.reference import AdapterName, parse_reference
from lorry.rpc.convert import manifest_from_pb
from lorry.v1.types_pb2 import Version

if TYPE_CHECKING:
    from lorry.signing import PublicKey, SigningKey


class SignatureCalls(CatalogCalls):
    """Signatures over manifests. Keys come from lorry.signing, which needs the extra `sign`."""

    async def sign_version(self, reference: str, key: SigningKey) -> Version:
        """Sign a version that is published already, as it is; its bytes are not read again.

        Raises DigestMismatch, SignatureRequired (the namespace trusts other keys), what `version` raises.
        """
        version = await self.version(reference)
        adapter = parse_reference(reference).adapter
        envelope = signed(manifest_of(version), adapter, key)
        return await self.create_version(str(adapter), (), expected_digest=version.digest, signatures=[envelope])

    async def verify(self, reference: str, keys: Sequence[PublicKey]) -> tuple[Version, tuple[str, ...]]:
        """The version, and the ids of those of the keys that signed it under the name that is asked for.

        Checked here, with nothing but the keys to trust. Raises SignatureRequired where none did,
        DigestMismatch, what `version` raises.
        """
        from lorry.signing import signers

        version = await self.version(reference)
        adapter = parse_reference(reference).adapter
        found = signers(version.signatures, manifest_of(version).digest, adapter, keys)
        if not found:
            raise SignatureRequired(
                f"expected {reference} to be signed by {' or '.join(key.id for key in keys)}, none of "
                f"its {len(version.signatures)} signatures is"
            )
        return version, found

    async def _manifest_to_be(
        self, bundle: Bundle, base: str, parents: Sequence[str], recipe: Recipe | None
    ) -> Manifest:
        """What the registry is going to derive from these. Raises BaseNotFound, VersionNotFound."""
        base_id = (await self.base_model(base or bundle.facts.base_name or "")).base_id
        digests = [(await self.version(parent)).digest for parent in parents]
        digests += [source.digest for source in recipe.sources] if recipe else []
        return build_manifest(bundle.files, bundle.facts, base_id, dict.fromkeys(digests), recipe)


def signed(manifest: Manifest, adapter: AdapterName, key: SigningKey) -> bytes:
    """lorry.signing.sign, loaded when it is needed: the plain SDK comes without cryptography."""
    from lorry.signing import sign

    return sign(manifest, adapter, key)


def manifest_of(version: Version) -> Manifest:
    """The manifest of a version. Raises DigestMismatch where it is not that of the version's digest."""
    manifest = manifest_from_pb(version.manifest)
    if manifest.digest != version.digest:
        raise DigestMismatch(f"expected a manifest of {version.digest}, got one of {manifest.digest}")
    return manifest
