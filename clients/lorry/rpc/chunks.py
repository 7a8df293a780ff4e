"""Sizes of the pieces in which blobs travel; both ends obey them.

Owns the numbers of blob.proto. Does not know streams or stores.
"""

from __future__ import annotations

from typing import Final

# One HTTP/2 frame and one read of a file: 1 MiB measured best over loopback.
CHUNK_BYTES: Final = 1 << 20
# The most that an upload's chunk may carry: bounds what a stream can make the server hold.
MAX_CHUNK_BYTES: Final = 2 << 20
# Digests in one FindMissing.
MAX_DIGESTS: Final = 1_000
