"""Addresses: `host:port`, and whether only this machine can reach them.

Owns the judgement that both services' settings need before they let anonymous callers in. Does not
know DNS: a name other than `localhost` counts as reachable from elsewhere.
"""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """Whether `host:port` names this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
