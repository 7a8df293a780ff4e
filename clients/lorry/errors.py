"""Every error that Lorry raises, sends or receives: one tree.

    LorryError
    |- InvalidInput            INVALID_ARGUMENT     what came cannot be right, whatever the state
    |  |- InvalidReference, InvalidName, InvalidDigest, InvalidFilter, InvalidPageToken,
    |  |  InvalidFieldMask, InvalidResumeToken, InvalidAdapter, InvalidSelection,
    |  |  InvalidCombination, OffsetMismatch, PromptTooLong, BlobTooLarge
    |- NotFound                NOT_FOUND
    |  |- AdapterNotFound, VersionNotFound, AliasNotFound, BaseNotFound, BlobNotFound,
    |  |  ParentNotFound, RouteNotFound
    |- Conflict                ALREADY_EXISTS       another thing has that name
    |  |- BaseConflict
    |- RevisionConflict        ABORTED              compare-and-swap lost: read again, decide again
    |- FailedPrecondition      FAILED_PRECONDITION  right in form, wrong in this state
    |  |- UnsupportedAdapter, IncompatibleAdapter, UnsupportedCombination, UnsupportedRoute,
    |  |  UnsupportedModel, VersionYanked, VersionInUse, AdapterPinned, AdapterInUse,
    |  |  MissingBlobs, UploadIncomplete
    |- OutOfRange              OUT_OF_RANGE
    |- Exhausted               RESOURCE_EXHAUSTED   no room
    |  |- QueueFull, CacheBusy (retryable), RequestTooLarge
    |- Unavailable             UNAVAILABLE          retryable
    |  |- RegistryUnavailable, StorageUnavailable, Draining, Lagging
    |- Unauthenticated         UNAUTHENTICATED
    |- DeadlineExceeded        DEADLINE_EXCEEDED
    |- Cancelled               CANCELLED
    |- DataLoss                DATA_LOSS            bytes are not what their digest says
    |  |- DigestMismatch
    |- Internal                INTERNAL             a defect of Lorry; the text stays in the log

A class names its status code, its reason (the ErrorInfo reason on the wire) and whether the same
call may succeed later. It knows nothing of grpc: `lorry.rpc` translates both ways.
"""

from __future__ import annotations

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

    reason = "INVALID_REFERENCE"


class InvalidName(InvalidInput):
    """A name outside of the one pattern for namespaces, adapters, aliases, bases and routes."""

    reason = "INVALID_NAME"


class InvalidDigest(InvalidInput):
    """Not `sha256:` and 64 lowercase hexadecimal digits."""

    reason = "INVALID_DIGEST"


class InvalidFilter(InvalidInput):
    """A filter that does not parse, or names an unknown field."""

    reason = "INVALID_FILTER"


class InvalidPageToken(InvalidInput):
    """A page token that this call did not give out."""

    reason = "INVALID_PAGE_TOKEN"


class InvalidFieldMask(InvalidInput):
    """A field mask that is empty or names a field that cannot be written."""

    reason = "INVALID_FIELD_MASK"


class InvalidResumeToken(InvalidInput):
    """A resume token that the registry did not give out."""

    reason = "INVALID_RESUME_TOKEN"


class InvalidAdapter(InvalidInput):
    """A broken or hostile bundle: malformed file, stray tensor, non-finite value, wrong rank."""

    reason = "INVALID_ADAPTER"


class InvalidSelection(InvalidInput):
    """A selection that has no meaning: a version twice, a weight that is not finite, DoRA beside another."""

    reason = "INVALID_SELECTION"


class InvalidCombination(InvalidInput):
    """A recipe that has no meaning: density out of range, unequal ranks, a weight that is not finite."""

    reason = "INVALID_COMBINATION"


class OffsetMismatch(InvalidInput):
    """A chunk that does not follow what the store has kept; metadata `committed_bytes` says where to go on."""

    reason = "OFFSET_MISMATCH"


class PromptTooLong(InvalidInput):
    """Prompt and answer together exceed the context of the worker."""

    reason = "PROMPT_TOO_LONG"


class BlobTooLarge(InvalidInput):
    """More bytes than the header said, or than the store takes."""

    reason = "BLOB_TOO_LARGE"


class NotFound(LorryError):
    """No such thing."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class AdapterNotFound(NotFound):
    """No adapter of that namespace and name."""

    reason = "ADAPTER_NOT_FOUND"


class VersionNotFound(NotFound):
    """The adapter has no such version, or no version that is not yanked."""

    reason = "VERSION_NOT_FOUND"


class AliasNotFound(NotFound):
    """The adapter has no such alias."""

    reason = "ALIAS_NOT_FOUND"


class BaseNotFound(NotFound):
    """No registered base model of that name or id."""

    reason = "BASE_NOT_FOUND"


class BlobNotFound(NotFound):
    """No visible blob of that digest."""

    reason = "BLOB_NOT_FOUND"


class ParentNotFound(NotFound):
    """A parent or recipe source that the registry does not have."""

    reason = "PARENT_NOT_FOUND"


class RouteNotFound(NotFound):
    """The worker has no such route."""

    reason = "ROUTE_NOT_FOUND"


class Conflict(LorryError):
    """Another thing holds that name."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class BaseConflict(Conflict):
    """The name of the base belongs to another fingerprint."""

    reason = "BASE_CONFLICT"


class RevisionConflict(LorryError):
    """Compare-and-swap lost; metadata `revision` is the stored one. Read again, then decide again."""

    code = "ABORTED"
    reason = "REVISION_CONFLICT"


class FailedPrecondition(LorryError):
    """Right in form, wrong in the present state."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class UnsupportedAdapter(FailedPrecondition):
    """A sound PEFT adapter of a kind that Lorry does not serve; the message says which and what to do."""

    reason = "UNSUPPORTED_ADAPTER"


class IncompatibleAdapter(FailedPrecondition):
    """The adapter does not fit the base; the message lists every reason."""

    reason = "INCOMPATIBLE_ADAPTER"


class UnsupportedCombination(FailedPrecondition):
    """Sources whose combination by this method would lose something (rsLoRA is fine, DoRA is not)."""

    reason = "UNSUPPORTED_COMBINATION"


class UnsupportedRoute(FailedPrecondition):
    """A route of more than one branch."""

    reason = "UNSUPPORTED_ROUTE"


class UnsupportedModel(FailedPrecondition):
    """A base model whose attention or layers the engine cannot reproduce exactly."""

    reason = "UNSUPPORTED_MODEL"


class VersionYanked(FailedPrecondition):
    """The version was yanked; metadata `yank_reason` says why. By digest it still resolves."""

    reason = "VERSION_YANKED"


class VersionInUse(FailedPrecondition):
    """An alias or a child's lineage names the version; the message lists them."""

    reason = "VERSION_IN_USE"


class AdapterPinned(FailedPrecondition):
    """The adapter is pinned on the worker."""

    reason = "ADAPTER_PINNED"


class AdapterInUse(FailedPrecondition):
    """Requests or routes use the adapter."""

    reason = "ADAPTER_IN_USE"


class MissingBlobs(FailedPrecondition):
    """The version names blobs that are not stored; the message lists them."""

    reason = "MISSING_BLOBS"


class UploadIncomplete(FailedPrecondition):
    """The upload was finished before all of its bytes came; what came is kept."""

    reason = "UPLOAD_INCOMPLETE"


class OutOfRange(LorryError):
    """An offset beyond the end."""

    code = "OUT_OF_RANGE"
    reason = "OUT_OF_RANGE"


class Exhausted(LorryError):
    """No room."""

    code = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"


class QueueFull(Exhausted):
    """The worker's queue is full."""

    reason = "QUEUE_FULL"
    retryable = True
    retry_after = 1.0


class CacheBusy(Exhausted):
    """Everything in the pool is in use or pinned, and stayed so for as long as was waited."""

    reason = "CACHE_BUSY"
    retryable = True
    retry_after = 1.0


class RequestTooLarge(Exhausted):
    """The request can never fit the worker's budgets (pool rows or KV cache)."""

    reason = "REQUEST_TOO_LARGE"


class Unavailable(LorryError):
    """Not now."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"
    retryable = True


class RegistryUnavailable(Unavailable):
    """The worker cannot reach the registry; what it holds is still served."""

    reason = "REGISTRY_UNAVAILABLE"
    retry_after = 1.0


class StorageUnavailable(Unavailable):
    """The registry cannot reach its database or its blob store."""

    reason = "STORAGE_UNAVAILABLE"


class Draining(Unavailable):
    """The server is about to stop and takes nothing new."""

    reason = "DRAINING"


class Lagging(Unavailable):
    """The caller of a watch did not keep up; start again."""

    reason = "LAGGING"


class Unauthenticated(LorryError):
    """No credentials, or wrong ones."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class DeadlineExceeded(LorryError):
    """The caller's time ran out."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class Cancelled(LorryError):
    """The caller went away."""

    code = "CANCELLED"
    reason = "CANCELLED"


class DataLoss(LorryError):
    """Stored bytes are damaged."""

    code = "DATA_LOSS"
    reason = "DATA_LOSS"


class DigestMismatch(DataLoss):
    """Bytes whose sha256 is not the digest they came under."""

    reason = "DIGEST_MISMATCH"


class Internal(LorryError):
    """A defect of Lorry. The client sees an incident id, the log has the rest."""

    code = "INTERNAL"
    reason = "INTERNAL"
