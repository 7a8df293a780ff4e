"""The settings that every server of ours has: TLS, its log, its metrics. Needs the `server` extra.

Owns their names and which of them must come together. Does not know what else a service can be told,
nor when its callers must prove who they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import field_validator, model_validator
from pydantic_settings import BaseSettings

from lorry.rpc.logs import LogFormat
from lorry.rpc.tls import ServerTls

_MAX_PORT = 65_535


class ServerSettings(BaseSettings):
    """To be inherited by a service's settings, which choose the prefix of the environment's variables."""

    # PEM: the server's certificate with those that lead to its root, and its key. Unset: no encryption.
    tls_cert: Path | None = None
    tls_key: Path | None = None
    # PEM: who signs client certificates. Where it is set, every caller must show one.
    tls_client_ca: Path | None = None
    # host:port of an HTTP endpoint for Prometheus, which asks nobody who he is. Unset: no metrics.
    metrics_listen: str | None = None
    # text for people, json for whatever gathers logs.
    log_format: LogFormat = "text"
    # Whether each call gets a line in the log; those that were refused get one anyway.
    access_log: bool = True

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_at_host_and_port(cls, value: str | None) -> str | None:
        return value and host_and_port(value)

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca and not self.tls_cert):
            prefix = self.model_config.get("env_prefix", "")
            msg = f"set {prefix}TLS_CERT and {prefix}TLS_KEY together, and {prefix}TLS_CLIENT_CA only beside them"
            raise ValueError(msg)
        return self

    @property
    def tls(self) -> ServerTls | None:
        """None where nothing is encrypted."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return ServerTls(self.tls_cert, self.tls_key, self.tls_client_ca)


def host_and_port(text: str) -> str:
    """The text, where it is `host:port`. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        msg = f"expected host:port, got {text!r}"
        raise ValueError(msg)
    return text
