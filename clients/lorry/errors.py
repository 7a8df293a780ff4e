"""Every error that Lorry raises, sends or receives: one tree.

    LorryError
    |- InvalidInput (INVALID_ARGUMENT): what came cannot be right. InvalidReference, InvalidName, InvalidDigest,
    |    InvalidFilter, InvalidPageToken, InvalidFieldMask, InvalidResumeToken, InvalidAdapter, InvalidSelection,
    |    InvalidCombination, InvalidGrammar, InvalidSignature, OffsetMismatch, PromptTooLong, BlobTooLarge
    |- NotFound: AdapterNotFound, VersionNotFound, AliasNotFound, BaseNotFound, BlobNotFound, RouteNotFound,
    |    ParentNotFound, PrincipalNotFound
    |- Conflict (ALREADY_EXISTS): BaseConflict, PrincipalConflict
    |- RevisionConflict (ABORTED)
    |- FailedPrecondition: UnsupportedAdapter, IncompatibleAdapter, UnsupportedCombination, UnsupportedModel,
    |    VersionYanked, VersionInUse, NoEarlierVersion, SignatureRequired, AdapterPinned,
    |    AdapterInUse, MissingBlobs, UploadIncomplete, ResumeTokenExpired, AlreadyRunning, MissingExtra
    |- DataLoss: DigestMismatch, CorruptBlob
    |- Unauthenticated, PermissionDenied, OutOfRange, DeadlineExceeded, Cancelled, Internal
    |- Exhausted (RESOURCE_EXHAUSTED): QueueFull, CacheBusy and TooManyUploads (retryable), RequestTooLarge,
    |    QuotaExceeded
    |- Unavailable (retryable): RegistryUnavailable, StorageUnavailable, DeviceUnavailable, BlobBeingSwept,
    |    Draining, Lagging

A class names its status code, its reason (ErrorInfo's reason: its own name in upper snake case) and
whether the same call may succeed later. It knows nothing of grpc: `lorry.rpc` translates both ways.
"""

from __future__ import annotations

import re
from typing import ClassVar


class LorryError(Exception):
    """Base of all.

    `message` says what was expected and what came. `metadata` carries the same facts for programs
    (string to string, sent as ErrorInfo metadata).
    """

    code: ClassVar[str] = "UNKNOWN"
    reason: ClassVar[str] = "UNKNOWN"
    retryable: ClassVar[bool] = False
    # Seconds to wait before the same call is worth another try; sent as RetryInfo where retryable.
    retry_after: float = 0.5
    # The request that it ended, as the server's log names it; empty where no server has answered.
    request_id: str = ""

    def __init_subclass__(cls) -> None:
        """The reason is the name of the class in upper snake case, unless the class says another."""
        if "reason" not in cls.__dict__:
            cls.reason = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class InvalidInput(LorryError):
    """What came cannot be right, whatever the state of the server."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_ARGUMENT"


class InvalidReference(InvalidInput):
    """Not of the form `[namespace/]name[@number | :alias | @sha256:hex]`."""


class InvalidName(InvalidInput):
    """A name outside of the one pattern for namespaces, adapters, aliases, bases and routes."""


class InvalidDigest(InvalidInput):
    """Not `sha256:` and 64 lowercase hexadecimal digits."""


class InvalidFilter(InvalidInput):
    """A filter that does not parse, or names an unknown field."""


class InvalidPageToken(InvalidInput):
    """A page token that this call did not give out."""


class InvalidFieldMask(InvalidInput):
    """A field mask that is empty or names a field that cannot be written."""


class InvalidResumeToken(InvalidInput):
    """A resume token that the registry did not give out."""


class InvalidAdapter(InvalidInput):
    """A broken or hostile bundle: malformed file, stray tensor, non-finite value, wrong rank."""


class InvalidSelection(InvalidInput):
    """A selection that has no meaning: a version twice, a weight that is not finite, DoRA beside another."""


class InvalidCombination(InvalidInput):
    """A recipe that has no meaning: density out of range, unequal ranks, a weight that is not finite."""


class InvalidGrammar(InvalidInput):
    """A JSON schema, regular expression or grammar that does not parse, or is too complex; the message says where."""


class InvalidSignature(InvalidInput):
    """A signature that does not parse, does not verify, or is over another manifest."""


class OffsetMismatch(InvalidInput):
    """A chunk that does not follow what the store has kept; metadata `committed_bytes` says where to go on."""


class PromptTooLong(InvalidInput):
    """Prompt and answer together exceed the context of the worker."""


class BlobTooLarge(InvalidInput):
    """More bytes than the header said, or than the store takes."""


class NotFound(LorryError):
    """No such thing."""

    code = "NOT_FOUND"


class AdapterNotFound(NotFound):
    """No adapter of that namespace and name."""


class VersionNotFound(NotFound):
    """The adapter has no such version, or no version that is not yanked."""


class AliasNotFound(NotFound):
    """The adapter has no such alias."""


class BaseNotFound(NotFound):
    """No registered base model of that name or id."""


class BlobNotFound(NotFound):
    """No visible blob of that digest."""


class ParentNotFound(NotFound):
    """A parent or recipe source that the registry does not have."""


class PrincipalNotFound(NotFound):
    """No token or certificate of that name."""


class RouteNotFound(NotFound):
    """The worker has no such route."""


class Conflict(LorryError):
    """Another thing holds that name."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class BaseConflict(Conflict):
    """The name of the base belongs to another fingerprint."""


class PrincipalConflict(Conflict):
    """The name or the certificate belongs to another principal."""


class RevisionConflict(LorryError):
    """Compare-and-swap lost; metadata `revision` is the stored one. Read again, then decide again."""

    code = "ABORTED"


class FailedPrecondition(LorryError):
    """Right in form, wrong in the present state."""

    code = "FAILED_PRECONDITION"


class UnsupportedAdapter(FailedPrecondition):
    """A sound PEFT adapter of a kind that Lorry does not serve; the message says which and what to do."""


class IncompatibleAdapter(FailedPrecondition):
    """The adapter does not fit the base; the message lists every reason."""


class UnsupportedCombination(FailedPrecondition):
    """Sources whose combination by this method would lose something, as adding factors loses a DoRA's magnitudes."""


class UnsupportedModel(FailedPrecondition):
    """A base model whose attention or layers the engine cannot reproduce exactly."""


class VersionYanked(FailedPrecondition):
    """The version was yanked; metadata `yank_reason` says why. By digest it still resolves."""


class VersionInUse(FailedPrecondition):
    """An alias, a lease or a child's lineage needs the version; the message lists them."""


class NoEarlierVersion(FailedPrecondition):
    """The alias has not moved yet, or the route has no such revision to go back to."""


class SignatureRequired(FailedPrecondition):
    """The namespace takes only what one of its keys signed; the message says which keys."""


class AdapterPinned(FailedPrecondition):
    """The adapter is pinned on the worker."""


class AdapterInUse(FailedPrecondition):
    """Requests or routes use the adapter."""


class MissingBlobs(FailedPrecondition):
    """The version names blobs that are not stored; the message lists them."""


class UploadIncomplete(FailedPrecondition):
    """The upload was finished before all of its bytes came; what came is kept."""


class ResumeTokenExpired(FailedPrecondition):
    """The events behind the token are not kept any more: read the state again, then watch from now on."""


class AlreadyRunning(FailedPrecondition):
    """The same work is being done already; the message says since when."""


class MissingExtra(FailedPrecondition):
    """A part of the installation that a command needs is not there. Never on the wire."""


class OutOfRange(LorryError):
    """An offset beyond the end."""

    code = "OUT_OF_RANGE"


class Exhausted(LorryError):
    """No room."""

    code = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"


class QueueFull(Exhausted):
    """The worker's queue is full."""

    retryable = True
    retry_after = 1.0


class TooManyUploads(Exhausted):
    """As many uploads of the caller run as may at a time."""

    retryable = True
    retry_after = 1.0


class CacheBusy(Exhausted):
    """Everything in the pool is in use or pinned, and stayed so for as long as was waited."""

    retryable = True
    retry_after = 1.0


class RequestTooLarge(Exhausted):
    """The request can never fit the worker's budgets (pool rows or KV cache)."""


class QuotaExceeded(Exhausted):
    """A namespace's limit of bytes or versions (metadata `limit`, `used`, `asked`), a caller's of sessions,
    or what pins and routes may keep of a pool.
    """


class Unavailable(LorryError):
    """Not now."""

    code = "UNAVAILABLE"
    retryable = True


class RegistryUnavailable(Unavailable):
    """The worker cannot reach the registry; what it holds is still served."""

    retry_after = 1.0


class StorageUnavailable(Unavailable):
    """The registry cannot reach its database or its blob store."""


class DeviceUnavailable(Unavailable):
    """The worker's device did not take an adapter; what it holds is still served."""

    retry_after = 1.0


class BlobBeingSwept(Unavailable):
    """The blob was garbage and is on its way out; it can be sent again in a moment."""


class Draining(Unavailable):
    """The server is about to stop and takes nothing new."""


class Lagging(Unavailable):
    """The caller of a watch did not keep up; start again."""


class Unauthenticated(LorryError):
    """No credentials, or wrong ones."""

    code = "UNAUTHENTICATED"


class PermissionDenied(LorryError):
    """The caller may not do that there, whether or not there is such a thing."""

    code = "PERMISSION_DENIED"


class DeadlineExceeded(LorryError):
    """The caller's time ran out."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(LorryError):
    """The caller went away."""

    code = "CANCELLED"


class DataLoss(LorryError):
    """Stored bytes are damaged."""

    code = "DATA_LOSS"


class DigestMismatch(DataLoss):
    """Bytes whose sha256 is not the digest they came under."""


class CorruptBlob(DataLoss):
    """Stored bytes do not hash to their digest any more. They were put aside; sending them again heals it."""


class Internal(LorryError):
    """A defect of Lorry. The client sees an incident id, the log has the rest."""

    code = "INTERNAL"
