"""kill -9 at random moments under load: what was acknowledged is there, and what is there is whole.

The short form runs with all tests; `make chaos` runs the long one (CHAOS_SECONDS a kind of storage and
CHAOS_KILLS at least, CHAOS_SEED for the same moments again).
"""

from __future__ import annotations

import os
import random
import sys
from datetime import timedelta
from pathlib import Path

from tests.chaos.home import Home, findings, visible
from tests.chaos.kill_loop import Loop

SECONDS = float(os.environ.get("CHAOS_SECONDS", "8"))
KILLS = int(os.environ.get("CHAOS_KILLS", "4"))
SEED = int(os.environ.get("CHAOS_SEED") or random.getrandbits(32))
# Fewer show nothing: each kill must have had acknowledgements that it could have lost.
ACKED_PER_KILL = 3


async def test_nothing_acknowledged_is_lost_and_nothing_visible_is_broken_whenever_the_registry_is_killed(
    home: Home, tmp_path: Path
) -> None:
    sys.stdout.write(f"\nseed {SEED}\n")
    loop = Loop(home, tmp_path, SEED, seconds=SECONDS, kills=KILLS)
    record = await loop.run()
    async with home.client() as client:
        await client.collect_garbage(grace=timedelta())
        await loop.check(client)
        standing = set(await visible(client))
        found = await findings(client)
    sys.stdout.write(f"seed {SEED}: {record.figures()}\n")
    assert (record.lost, record.bad, record.ghosts, found) == (set(), {}, set(), [])
    assert standing == record.acked.keys() - record.left
    assert record.kills >= KILLS
    assert record.big >= 1
    assert len(record.acked) >= ACKED_PER_KILL * record.kills
    home.kill()
    assert home.rows_without_bytes() == set()
