"""The registry's settings: environment variables `LORRY_REGISTRY_*`, nothing else.

Owns names, defaults and what must not be combined. Secrets are never shown, in errors neither. Does
not know what is done with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lorry.rpc.address import is_loopback

_MAX_PORT = 65_535


class Settings(BaseSettings):
    """All of it; see each field."""

    model_config = SettingsConfigDict(env_prefix="LORRY_REGISTRY_", extra="forbid", hide_input_in_errors=True)

    # Port 0 takes any free one; `serve --port-file` tells which.
    listen: str = "127.0.0.1:7471"
    # Anonymous callers are for loopback; any other address must be asked for in so many words.
    insecure: bool = False
    # Holds the SQLite file and the blobs where the next two do not name other places.
    data_dir: Path = Path("var/registry")
    # sqlite:///FILE or postgresql://...; may hold a password. Unset: a SQLite file in data_dir.
    database_url: SecretStr | None = None
    # file:///FOLDER, s3://BUCKET/PREFIX or memory://. Unset: files in data_dir.
    blobs: str = ""
    # URL of the S3 server; unset means AWS.
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    # Unset: boto3 looks where it always does (environment, profile, instance role).
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    # A file that holds the secret instead.
    s3_secret_access_key_file: Path | None = None
    # How long running calls may go on after SIGTERM.
    grace_seconds: float = Field(default=30.0, ge=0)

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
            msg = f"expected host:port, got {value!r}"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _anonymous_on_loopback_alone(self) -> Self:
        if not self.insecure and not is_loopback(self.listen):
            msg = (
                f"LORRY_REGISTRY_LISTEN={self.listen} is not loopback: set LORRY_REGISTRY_INSECURE=true to serve "
                "anybody who can reach it, without encryption"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if self.s3_secret_access_key and self.s3_secret_access_key_file:
            msg = "set LORRY_REGISTRY_S3_SECRET_ACCESS_KEY or ..._S3_SECRET_ACCESS_KEY_FILE, not both"
            raise ValueError(msg)
        return self

    @property
    def database(self) -> str:
        """URL of the database, its password in clear."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.absolute()}/catalog.db"

    @property
    def blob_store(self) -> str:
        """URL of the blob store."""
        return self.blobs or self.data_dir.absolute().as_uri()

    def s3_secret(self) -> str | None:
        """The S3 secret in clear, None where none is set. Raises OSError where its file cannot be read."""
        if self.s3_secret_access_key_file is not None:
            return self.s3_secret_access_key_file.read_text(encoding="utf-8").strip()
        return self.s3_secret_access_key.get_secret_value() if self.s3_secret_access_key else None
