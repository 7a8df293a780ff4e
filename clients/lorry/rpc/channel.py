"""How both ends of a connection are set up.

Owns message sizes, keepalive, frame size and which calls gRPC itself tries again. Does not know
addresses, where credentials come from, or what a call means beyond whether repeating it is harmless.
"""

from __future__ import annotations

import json
from typing import Final, Unpack

import grpc
import grpc.aio

from lorry.errors import InvalidInput
from lorry.rpc.credentials import Credentials, identified

Options = list[tuple[str, str | int]]

# The largest messages are an upload chunk (2 MiB) and the module table of a base: 44,000 modules of
# a mixture of experts at 75 bytes each are 3.3 MB.
MAX_MESSAGE_BYTES: Final = 8 << 20
# A frame as large as a blob chunk: with the default 16 KiB, framing halves the throughput.
_MAX_FRAME_BYTES = 1 << 20
# A dead peer is noticed within 20 + 5 s. The server must allow pings as often as clients send them.
_PING_EVERY_MS = 20_000
_PING_TIMEOUT_MS = 5_000
_MIN_PING_INTERVAL_MS = 5_000
# The first fits into the retries of a call; the last keeps a worker's recovery within 2 s of the registry's.
_FIRST_RECONNECT_MS = 100
_SLOWEST_RECONNECT_MS = 2_000

# Calls that change nothing, or change the same thing once however often they come. Deletions and
# compare-and-swap are absent: their second answer differs. Upload is resumed by the SDK instead, which also repeats
# CreateVersion where it moves no alias: who moved that meanwhile would be undone.
_IDEMPOTENT: Final = {
    "lorry.v1.CatalogService": (
        "RegisterBaseModel GetBaseModel ListBaseModels GetVersion ListVersions YankVersion "
        "GetAdapter ListAdapters ListAliases GetLineage RenewLeases ListLeases Resolve CheckCompatibility Watch"
    ),
    "lorry.v1.BlobService": "FindMissing QueryUpload Read",
    "lorry.v1.InferenceService": "GetRoute ListRoutes",
    "lorry.v1.ResidencyService": "Load Pin ListResident WatchResidency GetCapabilities",
    "lorry.v1.AdminService": "GetNamespace ListNamespaces ListAuditEntries",
    "lorry.v1.AccessService": "ListPrincipals RevokePrincipal WhoAmI",
    "grpc.health.v1.Health": "Check",
}
# Three more tries within about 0.7 s: rides out a reconnect, and leaves longer outages to the caller.
_RETRY_POLICY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def service_config() -> str:
    """The service config as JSON: retries of idempotent calls."""
    names = [
        {"service": service, "method": method} for service, methods in _IDEMPOTENT.items() for method in methods.split()
    ]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}]})


def channel_options() -> Options:
    """Options of a client's channel."""
    return [
        *_shared_options(),
        ("grpc.keepalive_time_ms", _PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        # Without it a frozen peer is noticed only after a minute, whatever keepalive says.
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        # gRPC's own 1 s to 2 minutes would outlast the retries above, and keep a server that is back unseen.
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _SLOWEST_RECONNECT_MS),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", service_config()),
    ]


def server_options() -> Options:
    """Options of a server."""
    return [
        *_shared_options(),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        # Otherwise a second server binds the same port silently and takes half of the calls.
        ("grpc.so_reuseport", 0),
    ]


def _shared_options() -> Options:
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.http2.max_frame_size", _MAX_FRAME_BYTES),
    ]


def open_channel(target: str, **credentials: Unpack[Credentials]) -> grpc.aio.Channel:
    """A channel to `host:port`; with TLS where a file of root certificates (PEM) is given.

    Connects at the first call. Raises OSError where a file cannot be read, InvalidInput where the
    credentials do not go together.
    """
    roots, certificate = credentials.get("root_certificates"), credentials.get("certificate")
    if certificate is not None and roots is None:
        raise InvalidInput("certificate: expected root certificates beside it, since it is shown over TLS alone")
    if roots is None:
        channel = grpc.aio.insecure_channel(target, options=channel_options())
    else:
        chain, key = (path.read_bytes() for path in certificate) if certificate else (None, None)
        tls = grpc.ssl_channel_credentials(roots.read_bytes(), key, chain)
        channel = grpc.aio.secure_channel(target, tls, options=channel_options())
    return identified(channel, credentials.get("token", ""))
