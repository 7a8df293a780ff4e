"""One S3 bucket, as calls that end in a value or in an error of Lorry's.

Owns the client's settings, the bucket's creation and the form of each call. Does not know what a
digest is, nor in which order the calls make an upload safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from adapter_registry.blobs.s3_faults import code_of, nothing_there, require_whole_head, storage
from lorry.errors import StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectRequestTypeDef, PartTypeDef

_Page = TypeVar("_Page")

# The one region whose buckets must be created without saying so.
_DEFAULT_REGION = "us-east-1"
_CONNECT_SECONDS = 5
# A server-side copy, which puts a damaged blob aside, answers when it is done: 5 GiB at 100 MB/s are 54 s.
_SILENT_SECONDS = 60.0
# The registry's threads for blobs, and the parts of some uploads that are on their way. More are opened where
# they are needed, and not kept.
_CONNECTIONS = 64
_BUCKET_IS_THERE = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Where the S3 server is and who we are to it.

    endpoint: URL, or None for AWS. Without an access key boto3 looks where it always does
    (environment, profile, instance role). timeout: seconds in which an answer begins and goes on.
    """

    endpoint: str | None = None
    region: str = _DEFAULT_REGION
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    timeout: float = _SILENT_SECONDS


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart upload, as the server has it. size: bytes."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Object:
    """An object as a listing shows it. size: bytes; modified: with a time zone, by the server's clock."""

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Head:
    """What S3 says of one object. size: bytes; etag: names those bytes, and no others; metadata: its writer's, names
    in small letters.
    """

    size: int
    etag: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Begun:
    """A multipart upload that was begun and neither completed nor aborted. since: by the server's clock."""

    key: str
    upload: str
    since: datetime


class Bucket:
    """The bucket. Every method raises StorageUnavailable; keys are relative to `prefix`."""

    def __init__(self, name: str, prefix: str, settings: S3Settings) -> None:
        self._name = name
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._region = settings.region
        self._client = _connect(settings)

    def ensure(self) -> None:
        """Create the bucket where there is none."""
        with storage():
            with nothing_there():
                self._client.head_bucket(Bucket=self._name)
                return
            self._create()

    def _create(self) -> None:
        try:
            if self._region == _DEFAULT_REGION:
                self._client.create_bucket(Bucket=self._name)
            else:
                self._client.create_bucket(
                    Bucket=self._name,
                    CreateBucketConfiguration={"LocationConstraint": self._region},  # type: ignore[typeddict-item]
                )
        except ClientError as error:
            if code_of(error) not in _BUCKET_IS_THERE:
                raise

    def head(self, key: str) -> Head | None:
        """What S3 says of an object; None where there is none."""
        with storage(), nothing_there():
            found = self._client.head_object(Bucket=self._name, Key=self._prefix + key)
            # AWS says the names in small letters; servers in Go write them as headers, each word with a capital.
            metadata = {name.lower(): value for name, value in found.get("Metadata", {}).items()}
            return Head(found["ContentLength"], found["ETag"], metadata)
        return None

    def objects(self, prefix: str) -> Iterator[Object]:
        """The objects whose keys begin so, a page at a time; none where there is no bucket."""
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=self._prefix + prefix)
        )
        while (page := _next(pages)) is not None:
            for found in page.get("Contents", []):
                yield Object(found["Key"].removeprefix(self._prefix), found["Size"], found["LastModified"])

    def read(self, key: str, wanted: range, chunk: int, etag: str | None = None) -> Iterator[bytes]:
        """The wanted bytes of an object in pieces; all of them, or an error. Raises BlobNotFound.

        etag: what the object must still be.
        """
        if not wanted:  # S3 has no empty range
            return
        request: GetObjectRequestTypeDef = {
            "Bucket": self._name,
            "Key": self._prefix + key,
            "Range": f"bytes={wanted.start}-{wanted.stop - 1}",
        }
        if etag is not None:
            request["IfMatch"] = etag
        with storage():
            body = self._client.get_object(**request)["Body"]
        try:
            at = wanted.start
            while at < wanted.stop:
                with storage():
                    piece = body.read(min(chunk, wanted.stop - at))
                if not piece:
                    raise StorageUnavailable(
                        f"expected bytes {wanted.start} to {wanted.stop}, S3's answer ends at {at}"
                    )
                at += len(piece)
                yield piece
        finally:
            body.close()

    def put(self, key: str, data: bytearray, sha256: str) -> None:
        """Store an object whole. sha256: base64 of its hash, which the server checks."""
        with storage():
            self._client.put_object(
                Bucket=self._name,
                Key=self._prefix + key,
                Body=data,  # type: ignore[arg-type] # boto3 takes a bytearray, its stubs do not say so
                ContentLength=len(data),
                ChecksumSHA256=sha256,
            )

    def copy(self, source: str, target: str, etag: str) -> None:
        """Copy an object within the server, if it still is what the etag says."""
        with storage():
            self._client.copy_object(
                Bucket=self._name,
                Key=self._prefix + target,
                CopySource={"Bucket": self._name, "Key": self._prefix + source},
                CopySourceIfMatch=etag,
            )

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with storage(), nothing_there():
            self._client.delete_object(Bucket=self._name, Key=self._prefix + key)

    def begin(self, key: str, metadata: Mapping[str, str] | None = None) -> str:
        """Begin a multipart upload and say its id. metadata: of the object to be."""
        with storage():
            return self._client.create_multipart_upload(
                Bucket=self._name, Key=self._prefix + key, Metadata=metadata or {}
            )["UploadId"]

    def uploads(self, key: str) -> list[str]:
        """Ids of the multipart uploads to a key that were begun and neither completed nor aborted."""
        path = self._prefix + key
        with storage():
            # MinIO lists by whole keys alone, so the prefix is the key.
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._name, Prefix=path)
            with nothing_there():
                return [
                    found["UploadId"] for page in pages for found in page.get("Uploads", []) if found["Key"] == path
                ]
        return []

    def begun(self, *prefixes: str) -> Iterator[Begun]:
        """The multipart uploads whose keys begin with one of these, a page at a time; none where there is no bucket."""
        # MinIO answers a prefix that is no whole key with nothing, so the whole bucket is asked for.
        pages = iter(self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._name))
        while (page := _next(pages)) is not None:
            for found in page.get("Uploads", []):
                key = found["Key"].removeprefix(self._prefix)
                if found["Key"].startswith(self._prefix) and key.startswith(prefixes):
                    yield Begun(key, found["UploadId"], found["Initiated"])

    def parts(self, key: str, upload: str) -> list[Part]:
        """The parts of a multipart upload by number; none where it is no more."""
        return [Part(part["PartNumber"], part["ETag"], part["Size"]) for part in self._parts(key, upload)]

    def last_sent(self, key: str, upload: str) -> datetime | None:
        """When the youngest part came, by the server's clock; None where none did."""
        return max((part["LastModified"] for part in self._parts(key, upload)), default=None)

    def _parts(self, key: str, upload: str) -> list[PartTypeDef]:
        with storage():
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._name, Key=self._prefix + key, UploadId=upload
            )
            with nothing_there():
                return [part for page in pages for part in page.get("Parts", [])]
        return []

    def send(self, key: str, upload: str, number: int, data: bytearray) -> Part:
        """Store one part, with a checksum that the server checks before it takes the part."""
        with storage():
            answer = self._client.upload_part(
                Bucket=self._name,
                Key=self._prefix + key,
                UploadId=upload,
                PartNumber=number,
                Body=data,  # type: ignore[arg-type] # as in put
                ChecksumAlgorithm="CRC32",
            )
        return Part(number, answer["ETag"], len(data))

    def complete(self, key: str, upload: str, parts: list[Part]) -> str:
        """Make one object of the parts and say its etag."""
        listed: list[CompletedPartTypeDef] = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        with storage():
            return self._client.complete_multipart_upload(
                Bucket=self._name, Key=self._prefix + key, UploadId=upload, MultipartUpload={"Parts": listed}
            )["ETag"]

    def abort(self, key: str, upload: str) -> None:
        """Throw a multipart upload away, if it is there."""
        with storage(), nothing_there():
            self._client.abort_multipart_upload(Bucket=self._name, Key=self._prefix + key, UploadId=upload)


def _next(pages: Iterator[_Page]) -> _Page | None:
    """The next page of a listing; None where it is over."""
    with storage(), nothing_there():
        return next(pages, None)
    return None


def _connect(settings: S3Settings) -> S3Client:
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key,
        config=Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=settings.timeout,
            max_pool_connections=_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": 3},
            request_checksum_calculation="when_supported",
            response_checksum_validation="when_supported",
            # A server of one's own seldom has a DNS name for every bucket.
            s3={"addressing_style": "path" if settings.endpoint else "auto"},
        ),
    )
    client.meta.events.register("before-parse.s3", require_whole_head)
    return client
