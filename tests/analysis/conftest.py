from pathlib import Path

import pytest

from tests.analysis.synthetic import Plan, write_run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods, three seeds, all finished. Tests must not change it."""
    return write_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def broken_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One seed failed before its first evaluation and one after two. Tests must not change it."""
    plan = Plan(failed={("flow_grpo", 1): 10, ("dance_grpo", 2): 3})
    return write_run(tmp_path_factory.mktemp("broken"), plan)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two methods, two rewards, no sample videos: quick to draw. Tests must not change it."""
    plan = Plan(
        ("euphonium", "dance_grpo"), seeds=2, rewards=("accuracy", "caption_match"), with_samples=False
    )
    return write_run(tmp_path_factory.mktemp("small"), plan)
