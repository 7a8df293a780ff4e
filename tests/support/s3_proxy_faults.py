"""What may go wrong with one request to an S3 server, and when.

Owns the kinds of faults, the requests that each can meet, and the plan by which requests meet them.
Knows S3's requests by their form; does not know how one is passed on, nor who sends it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qs, urlsplit


class Kind(Enum):
    """What happens to the request."""

    ERROR = "500 InternalError"
    SLOW_DOWN = "503 SlowDown"
    ERROR_IN_200 = "error in a 200"
    CUT_UP = "cut within the request"
    CUT_DOWN = "cut within the answer"
    WRONG_UP = "wrong byte sent to S3"
    WRONG_DOWN = "wrong byte from S3"
    HANG = "no answer"
    TWICE = "sent twice"
    LATE = "delayed"


# Operations that S3 begins to answer with a 200 before it knows how they end.
_LATE_ENDS = {"CompleteMultipartUpload", "CopyObject"}
_QUERIES = {
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("PUT", "partNumber"): "UploadPart",
    ("GET", "uploadId"): "ListParts",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "list-type"): "ListObjectsV2",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
}
_PLAIN = {"HEAD": "HeadObject", "GET": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}


@dataclass(frozen=True)
class Request:
    """A request as it came. headers: names in small letters."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def bucket(self) -> str:
        """The first part of the path: endpoints of one's own are spoken to in path style."""
        return urlsplit(self.target).path.split("/")[1]

    @property
    def operation(self) -> str:
        """S3's name for it; what is asked of a bucket itself counts as asked of an object."""
        if "x-amz-copy-source" in self.headers:
            return "CopyObject"
        asked = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        named = (name for (method, word), name in _QUERIES.items() if method == self.method and word in asked)
        return next(named, None) or _PLAIN[self.method]

    def can_meet(self, kind: Kind) -> bool:
        """Whether a fault of this kind has something to take hold of."""
        if kind in {Kind.CUT_UP, Kind.WRONG_UP}:
            return bool(self.body)
        if kind is Kind.WRONG_DOWN:
            return self.method == "GET" or self.operation in _LATE_ENDS | {"CreateMultipartUpload"}
        return kind is not Kind.ERROR_IN_200 or self.operation in _LATE_ENDS


@dataclass(frozen=True)
class Fault:
    """kind: what happens. behind: S3 does what was asked before its answer is lost. seed: of where in the
    bytes, for each hit anew. Of the requests that can meet it, `skip` are spared and `count` are hit.
    """

    kind: Kind
    behind: bool = False
    seed: int = 0
    skip: int = 0
    count: int = 1


class Plan:
    """One fault and the requests that it met, told by `met`."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.met: list[str] = []
        self._seen = 0
        self._dice = random.Random(fault.seed)  # noqa: S311 - repeatable faults, no secret

    def hit(self, request: Request) -> float | None:
        """Where in the bytes of this request it meets the fault, from 0 to 1; None where it does not.

        Each request is asked about once.
        """
        if not request.can_meet(self.fault.kind):
            return None
        self._seen += 1
        if not self.fault.skip < self._seen <= self.fault.skip + self.fault.count:
            return None
        self.met.append(request.operation)
        return self._dice.random()
