"""What a worker's runtime may use and hold, and how it is called.

Owns the values alone; `app` reads them from the process's settings. Does not know what they are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compute_worker.runtime.signatures import ANYTHING, SignaturePolicy


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Budgets and limits of a worker.

    host_bytes, disk_bytes: budgets of the tiers. queue: most requests that wait. prefill_tokens:
    prompt tokens in one step. max_batch: most requests in one step. default_wait: seconds that a
    call waits for rows or KV where it has no deadline. tool: recorded in recipes, for example
    `lorry 0.1.0`. base_name: what the base model is called here. signatures: whose an adapter needs.
    speculation: whether steps with room verify drafts. holder: what this worker calls itself at the
    registry. sessions: most of one caller. session_seconds: that an unused one is kept. eviction: a key
    of eviction.EVICTIONS.
    """

    cache_dir: Path
    host_bytes: int
    disk_bytes: int
    queue: int
    prefill_tokens: int
    max_batch: int
    default_wait: float
    tool: str
    base_name: str
    holder: str
    sessions: int = 10_000
    session_seconds: float = 3600.0
    signatures: SignaturePolicy = ANYTHING
    eviction: str = "cost"
    speculation: bool = True
