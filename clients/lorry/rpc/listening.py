"""The settings that every server of ours has: TLS. Needs the `server` extra.

Owns their names and which of them must come together. Does not know what else a service can be told,
nor when its callers must prove who they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator
from pydantic_settings import BaseSettings

from lorry.rpc.tls import ServerTls


class TlsSettings(BaseSettings):
    """To be inherited by a service's settings, which choose the prefix of the environment's variables."""

    # PEM: the server's certificate with those that lead to its root, and its key. Unset: no encryption.
    tls_cert: Path | None = None
    tls_key: Path | None = None
    # PEM: who signs client certificates. Where it is set, every caller must show one.
    tls_client_ca: Path | None = None

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
