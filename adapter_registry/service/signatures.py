"""Signatures as they come: bounded, and about the version that they came with.

Owns what is checked before anything is written. Whether a namespace's own keys signed is judged in the
transaction that writes. Does not know the wire, SQL, or which keys are trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorry.errors import InvalidInput
from lorry.format.reference import AdapterName
from lorry.signing import read

# What CreateVersion takes at once.
_MAX_ENVELOPES = 8


def check_signatures(envelopes: Sequence[bytes], digest: str, adapter: AdapterName) -> tuple[bytes, ...]:
    """The envelopes, each once.

    Raises InvalidInput where there are too many, InvalidSignature where one is about another version.
    """
    if len(envelopes) > _MAX_ENVELOPES:
        raise InvalidInput(f"signatures: expected at most {_MAX_ENVELOPES}, got {len(envelopes)}")
    for envelope in envelopes:
        read(envelope, digest, adapter)
    return tuple(dict.fromkeys(envelopes))
