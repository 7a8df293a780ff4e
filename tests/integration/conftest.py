from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.pair import Pair, running_pair
from tests.support.worker import save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base as a folder."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def pair(tmp_path: Path, model: Path) -> AsyncIterator[Pair]:
    """A registry and a worker of the test's own, nothing published."""
    async with running_pair(tmp_path, model) as pair:
        yield pair
