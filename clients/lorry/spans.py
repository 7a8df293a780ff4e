"""How people write a span of time: `90d`, `12h`, `15m`, `30s`.

Owns that spelling, for every command that takes one. Does not know what is measured.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from lorry.errors import InvalidInput

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# Six digits of days from now on are within what a calendar holds.
_SPAN = re.compile(r"([0-9]{1,6})([smhd])")


def parse_span(text: str) -> timedelta:
    """The span. Raises InvalidInput."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise InvalidInput(f"expected a span of time such as 90d, 12h, 15m or 30s, got {text[:80]!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
