from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.worker import save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base as a folder."""
    return save_model(tmp_path_factory.mktemp("model"))
