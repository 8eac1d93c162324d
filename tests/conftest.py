"""Fixtures that tests of several packages share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny untrained world: `pipeline`, `outcome` and `process_reward`. Tests must not change it."""
    from tests.world import build_world  # here, so that tests of records and samplers load no diffusers

    folder = tmp_path_factory.mktemp("world")
    build_world(folder)
    return folder
