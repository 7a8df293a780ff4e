"""Homes on both kinds of storage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.chaos.home import Home, embedded, served

_KINDS = ["embedded", pytest.param("served", marks=[pytest.mark.postgres, pytest.mark.s3])]


@pytest.fixture(params=_KINDS, scope="module")
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Where a registry keeps everything, for all tests of a file. None runs yet."""
    folder = tmp_path_factory.mktemp("home")
    if request.param == "embedded":
        with embedded(folder) as home:
            yield home
        return
    server, s3 = request.getfixturevalue("postgres_server"), request.getfixturevalue("s3_settings")
    with server.migrated() as url, served(folder, url, f"chaos-{uuid.uuid4().hex}", s3) as home:
        yield home
