"""What a call means for one caller and not for another; what it means at all is told in tests/conformance."""

from __future__ import annotations

import pytest

from adapter_registry.domain.acting import Actor, Permission, Rights, acting
from adapter_registry.rpc.adapters import _readable
from adapter_registry.rpc.leases import _own
from lorry.errors import PermissionDenied

TENANT = Actor("gpu-worker", Rights({"team": Permission.READ, "own": Permission.ADMIN}))


def test_a_list_is_of_what_the_caller_may_read() -> None:
    assert _readable(None) is None
    with acting(TENANT):
        assert _readable(None) == {"team", "own"}
        assert _readable("team") == {"team"}
        with pytest.raises(PermissionDenied):
            _readable("secret")


def test_nobody_ends_the_leases_of_another_principal() -> None:
    assert _own("gpu-1") == "gpu-1"
    with acting(TENANT):
        assert _own("gpu-1") == "gpu-worker/gpu-1"
    with acting(Actor("somebody", TENANT.rights, via="gpu-worker")):
        assert _own("gpu-1") == "gpu-worker/gpu-1"
