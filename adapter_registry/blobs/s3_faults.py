"""What boto3 raises, as Lorry's errors.

Owns which of S3's answers mean that a thing is not there, which that the store cannot be used now, and
which are none at all. Error texts carry S3's code and the operation, never a header or a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import OperationModel
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from lorry.errors import BlobNotFound, StorageUnavailable

_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NotFound"}
# The second: a shorter object, a marker, came in the place of the bytes.
_GONE = {"NoSuchKey", "InvalidRange"}


def code_of(error: ClientError) -> str:
    """S3's word for what is wrong."""
    return error.response.get("Error", {}).get("Code", "unknown")


@contextmanager
def nothing_there() -> Iterator[None]:
    """Go on behind the block where S3 says that there is no such thing."""
    try:
        yield
    except ClientError as error:
        if code_of(error) not in _MISSING:
            raise


@contextmanager
def storage() -> Iterator[None]:
    """What boto3 raises inside is a missing object, or a store that cannot be used now."""
    try:
        yield
    except ClientError as error:
        if code_of(error) in _GONE and error.operation_name == "GetObject":
            raise BlobNotFound("S3 has no such bytes any more") from error
        raise StorageUnavailable(f"S3 refused {error.operation_name}: {code_of(error)}") from error
    # The last two: a number or a date that is none, and a field that an answer must have.
    except (BotoCoreError, ResponseParserError, HTTPError, ValueError, KeyError) as error:
        raise StorageUnavailable(f"S3 cannot be used: {type(error).__name__}") from error


def require_whole_head(response_dict: dict[str, Any], operation_model: OperationModel, **_: object) -> None:
    """A handler of botocore's event before-parse. Raises ResponseParserError where the head was cut.

    Python's http.client takes a head that ends anywhere for a whole one, and a body without a length for
    an empty one: a listing would have no entries. S3 tells the length of all that it answers with a body.
    """
    lengths = {"content-length", "transfer-encoding"} & {name.lower() for name in response_dict["headers"]}
    bodiless = operation_model.http["method"] == "HEAD" or response_dict["status_code"] != HTTPStatus.OK
    if not lengths and not bodiless:
        raise ResponseParserError("the answer was cut within its head")
