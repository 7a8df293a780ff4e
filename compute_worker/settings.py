"""The worker's settings: environment variables `LORRY_WORKER_*`, nothing else.

Owns names, defaults and their derivation. Does not know what is done with them. The worker has no
setting for storage or for a database: it knows the registry alone.
"""

from __future__ import annotations

import socket
import uuid
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from lorry.rpc.address import is_loopback
from lorry.rpc.credentials import Credentials
from lorry.rpc.listening import ServerSettings

MIB = 1 << 20


class Settings(ServerSettings):
    """All of it. Byte budgets are bytes; see each field."""

    model_config = SettingsConfigDict(env_prefix="LORRY_WORKER_", extra="forbid", hide_input_in_errors=True)

    listen: str = "127.0.0.1:7472"
    # Anonymous callers, and credentials in clear, are for loopback; other addresses must be asked for in so many words.
    insecure: bool = False
    registry: str = "127.0.0.1:7471"
    # What the worker calls itself at the registry; unset: its host's name and the port that it listens on.
    name: str = Field(default="", max_length=200)
    # none: everybody may do everything. registry: what the registry says of each caller's credentials.
    auth: Literal["none", "registry"] = "none"
    # How long a caller whom the registry has vouched for is served while the registry cannot be asked.
    auth_grace_seconds: float = Field(default=300.0, ge=0)
    # What the worker shows to the registry: a token, or a file that holds it; a certificate with its key.
    registry_token: SecretStr | None = None
    registry_token_file: Path | None = None
    registry_cert: Path | None = None
    registry_key: Path | None = None
    # Who signs the registry's certificate, PEM. Unset: no encryption.
    registry_ca: Path | None = None
    # A TOML file: public keys by namespace; see docs/operations.md. Unset: signatures are not asked for.
    trusted_keys: Path | None = None
    # A local folder, a GGUF file or a hub id.
    model: str = ""
    # Name of the base for people; unset: the last part of `model`.
    model_name: str = ""
    device: str = "cpu"
    # auto: bfloat16 where the device is fast at it, else float32.
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    # auto: native kernels where they reproduce the model; transformers: its own modules, always.
    executor: Literal["auto", "transformers"] = "auto"
    cache_dir: Path = Path("var/worker")
    # 32 adapters of rank 16 on all linears of a 135M model take 312 MB in bfloat16.
    pool_bytes: int = Field(default=320 * MIB, gt=0)
    # Unset: see host_budget.
    host_bytes: int | None = Field(default=None, gt=0)
    disk_bytes: int = Field(default=4096 * MIB, gt=0)
    # Who leaves a full tier first. cost: what is cheapest to bring back for the room it takes, and used least;
    # lru: what was used the longest ago.
    eviction: Literal["cost", "lru"] = "cost"
    # 23 KB a token of a 135M model in bfloat16, twice that in float32: 23,000 tokens, 64 requests of 360.
    kv_bytes: int = Field(default=512 * MIB, gt=0)
    # 0: what the model was made for.
    max_context: int = Field(default=2048, ge=0)
    # Requests that may wait; more are refused with QUEUE_FULL. One tenant alone gets half: 256, four batches.
    queue: int = Field(default=512, gt=0)
    # Sessions of one caller, and how long one that is not used is kept. It takes about a kilobyte; conversations
    # pause for minutes, and one an hour later is read anew by its user, too.
    sessions: int = Field(default=10_000, gt=0)
    session_seconds: float = Field(default=3600.0, gt=0)
    # Requests that run together in one step.
    max_batch: int = Field(default=64, gt=0)
    # Most prompt tokens of one step; beside running answers fewer where the machine is slow, see runtime.pace.
    prefill_tokens: int = Field(default=512, gt=0)
    # lookup: where a step has room, it verifies drafts looked up in the request's own text; off: it never does.
    speculation: Literal["lookup", "off"] = "lookup"
    # How long a request without a deadline waits for pool rows.
    wait_seconds: float = Field(default=30.0, gt=0)
    # torch's threads; 0: torch decides.
    threads: int = Field(default=0, ge=0)
    # How long running requests may go on after SIGTERM.
    grace_seconds: float = Field(default=30.0, ge=0)

    @model_validator(mode="after")
    def _open_on_loopback_alone(self) -> Self:
        guarded = self.auth == "registry" and self.tls is not None
        if not self.insecure and not guarded and not is_loopback(self.listen):
            msg = (
                f"LORRY_WORKER_LISTEN={self.listen} is not loopback: set LORRY_WORKER_AUTH=registry and "
                "LORRY_WORKER_TLS_CERT, or LORRY_WORKER_INSECURE=true to serve anybody"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _callers_tokens_encrypted(self) -> Self:
        secret = self.auth == "registry" or self.registry_token or self.registry_token_file
        if secret and self.registry_ca is None and not self.insecure and not is_loopback(self.registry):
            msg = (
                f"LORRY_WORKER_REGISTRY={self.registry} is not loopback: set LORRY_WORKER_REGISTRY_CA, or "
                "LORRY_WORKER_INSECURE=true to send it tokens that anybody on the way can read"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _registry_credentials_together(self) -> Self:
        if self.registry_token and self.registry_token_file:
            msg = "set LORRY_WORKER_REGISTRY_TOKEN or LORRY_WORKER_REGISTRY_TOKEN_FILE, not both"
            raise ValueError(msg)
        if (self.registry_cert is None) != (self.registry_key is None) or (self.registry_cert and not self.registry_ca):
            msg = (
                "set LORRY_WORKER_REGISTRY_CERT and LORRY_WORKER_REGISTRY_KEY together, beside LORRY_WORKER_REGISTRY_CA"
            )
            raise ValueError(msg)
        return self

    def registry_credentials(self) -> Credentials:
        """What the worker shows to the registry, secrets in clear. Raises OSError where a file cannot be read."""
        credentials = Credentials()
        if self.registry_token is not None:
            credentials["token"] = self.registry_token.get_secret_value()
        if self.registry_token_file is not None:
            credentials["token"] = self.registry_token_file.read_text(encoding="utf-8").strip()
        if self.registry_ca is not None:
            credentials["root_certificates"] = self.registry_ca
        if self.registry_cert is not None and self.registry_key is not None:
            credentials["certificate"] = (self.registry_cert, self.registry_key)
        return credentials

    @property
    def base_name(self) -> str:
        """Name of the base for people."""
        return self.model_name or Path(self.model).name.lower()

    @property
    def host_budget(self) -> int:
        """Bytes of the host tier.

        On the CPU the pool is host memory, too: a copy beside it pays for those alone that were evicted, and for the
        next one; they come back out of the disk tier in some 20 ms. From a GPU all find room here.
        """
        return self.host_bytes or (self.pool_bytes // 5 if self.device == "cpu" else 512 * MIB)

    @property
    def holder(self) -> str:
        """What the worker calls itself at the registry: at a port that is not known yet, a name of its own."""
        port = self.listen.rpartition(":")[2]
        return self.name or f"{socket.gethostname()}:{port if port != '0' else uuid.uuid4().hex[:8]}"
