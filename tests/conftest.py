"""Fixtures that tests of several packages share."""

import os
from pathlib import Path

# Before anything loads torch, here and in the processes that tests start: on tensors this small a second thread
# costs more than it gives, and far more when another job shares the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny untrained world: `pipeline`, `outcome` and `process_reward`. Tests must not change it."""
    from tests.world import build_world  # here, so that tests of records and samplers load no diffusers

    folder = tmp_path_factory.mktemp("world")
    build_world(folder)
    return folder
