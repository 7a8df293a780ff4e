"""The registry's settings: environment variables `LORRY_REGISTRY_*`, nothing else.

Owns names, defaults and what must not be combined. Secrets are never shown, in errors neither. Does
not know what is done with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from lorry.rpc.address import is_loopback
from lorry.rpc.listening import ServerSettings, host_and_port

# Ten years: longer than any of it runs, short enough to be subtracted from today.
_LONGEST_SECONDS = 3_650 * 86_400.0


class Settings(ServerSettings):
    """All of it; see each field."""

    model_config = SettingsConfigDict(env_prefix="LORRY_REGISTRY_", extra="forbid", hide_input_in_errors=True)

    # Port 0 takes any free one; `serve --port-file` tells which.
    listen: str = "127.0.0.1:7471"
    # required: every caller shows a token or a client certificate. none: everybody may do everything.
    auth: Literal["none", "required"] = "none"
    # Anonymous or unencrypted callers are for loopback; any other address must be asked for in so many words.
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
    # How long the S3 server may be silent; a copy within it is silent until it is done, 5 GiB of it for a minute.
    s3_timeout_seconds: float = Field(default=60.0, gt=0)
    # A folder for copies of the blobs that are read, where they lie in S3. Unset: every read goes to S3.
    cache_dir: Path | None = None
    # The most bytes of them; 10 GiB are 200 adapters of 50 MB.
    cache_bytes: int = Field(default=10 << 30, gt=0)
    # How long running calls may go on after SIGTERM.
    grace_seconds: float = Field(default=30.0, ge=0)
    # How long a blob that no version names is kept, since it was last sent, asked for or named, and what
    # came of a broken upload. Longer than the longest push. A day.
    keep_seconds: float = Field(default=86_400.0, ge=0, le=_LONGEST_SECONDS)
    # How often garbage is collected, about; 0 means only by hand.
    gc_seconds: float = Field(default=3_600.0, ge=0)
    # How long events are kept for those who watch; who was away for longer reads everything again.
    event_days: float = Field(default=30.0, gt=0, le=_LONGEST_SECONDS / 86_400)
    # How long the audit log is kept. Unset: for ever.
    audit_days: float | None = Field(default=None, gt=0, le=_LONGEST_SECONDS / 86_400)
    # How often the database and the blob store are asked whether they are well.
    health_seconds: float = Field(default=5.0, gt=0)

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        return host_and_port(value)

    @model_validator(mode="after")
    def _open_on_loopback_alone(self) -> Self:
        guarded = self.auth == "required" and self.tls is not None
        if not guarded and not self.insecure and not is_loopback(self.listen):
            msg = (
                f"LORRY_REGISTRY_LISTEN={self.listen} is not loopback: set LORRY_REGISTRY_AUTH=required with "
                "LORRY_REGISTRY_TLS_CERT and _TLS_KEY, or LORRY_REGISTRY_INSECURE=true to serve anybody who can "
                "reach it, or without encryption"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if self.s3_secret_access_key and self.s3_secret_access_key_file:
            msg = "set LORRY_REGISTRY_S3_SECRET_ACCESS_KEY or ..._S3_SECRET_ACCESS_KEY_FILE, not both"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _cache_in_a_folder(self) -> Self:
        if "cache_bytes" in self.model_fields_set and self.cache_dir is None:
            msg = "LORRY_REGISTRY_CACHE_BYTES is for a cache: set LORRY_REGISTRY_CACHE_DIR too"
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
