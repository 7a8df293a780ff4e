"""The worker's settings: environment variables `LORRY_WORKER_*`, nothing else.

Owns names, defaults and their derivation. Does not know what is done with them. The worker has no
setting for storage or for a database: it knows the registry alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lorry.rpc.address import is_loopback

MIB = 1 << 20


class Settings(BaseSettings):
    """All of it. Byte budgets are bytes; see each field."""

    model_config = SettingsConfigDict(env_prefix="LORRY_WORKER_", extra="forbid")

    listen: str = "127.0.0.1:7472"
    # Anonymous callers are for loopback; any other address must be asked for in so many words.
    insecure: bool = False
    registry: str = "127.0.0.1:7471"
    # A local folder or a hub id.
    model: str = ""
    # Name of the base for people; unset: the last part of `model`.
    model_name: str = ""
    device: str = "cpu"
    # auto: bfloat16 where the device is fast at it, else float32.
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    cache_dir: Path = Path("var/worker")
    # 32 adapters of rank 16 on all linears of a 135M model take 312 MB in bfloat16.
    pool_bytes: int = Field(default=320 * MIB, gt=0)
    host_bytes: int = Field(default=512 * MIB, gt=0)
    disk_bytes: int = Field(default=4096 * MIB, gt=0)
    # 46 KB a token of a 135M model in bfloat16: 11,000 tokens, 32 requests of 350.
    kv_bytes: int = Field(default=512 * MIB, gt=0)
    # 0: what the model was made for.
    max_context: int = Field(default=2048, ge=0)
    # Requests that may wait; more are refused with QUEUE_FULL.
    queue: int = Field(default=256, gt=0)
    # Requests that run together in one step.
    max_batch: int = Field(default=64, gt=0)
    # Prompt tokens of one step: long prompts are cut, so that others' next token is never far.
    prefill_tokens: int = Field(default=512, gt=0)
    # How long a request without a deadline waits for pool rows.
    wait_seconds: float = Field(default=30.0, gt=0)
    # torch's threads; 0: torch decides.
    threads: int = Field(default=0, ge=0)
    # How long running requests may go on after SIGTERM.
    grace_seconds: float = Field(default=30.0, ge=0)

    @model_validator(mode="after")
    def _anonymous_on_loopback_alone(self) -> Self:
        if not self.insecure and not is_loopback(self.listen):
            msg = f"LORRY_WORKER_LISTEN={self.listen} is not loopback: set LORRY_WORKER_INSECURE=true to serve anybody"
            raise ValueError(msg)
        return self

    @property
    def base_name(self) -> str:
        """Name of the base for people."""
        return self.model_name or Path(self.model).name.lower()
