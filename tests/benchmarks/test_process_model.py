"""A method with a process reward of its own, beside others that share the run's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.benchmarks.harness import Bench


@pytest.fixture
def cheap(world: Path, tmp_path: Path) -> Path:
    """Another process reward: the same weights, another recorded cost."""
    folder = tmp_path / "cheap"
    shutil.copytree(world / "process_reward", folder)
    config = json.loads((folder / "config.json").read_text())
    config["cost"] = {"tflops": 0.125, "nfe": 1.0, "videos": 2.0, "seconds": 3.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_each_method_has_its_own_and_its_cost_is_recorded(bench: Bench, cheap: Path) -> None:
    settings = {"cheaper": {"base": "euphonium", "process_model": str(cheap)}}
    result = bench("--methods", "euphonium,cheaper", budget=1, method_settings=settings)
    assert result.code == 0, result.err
    rows = result.rows("ledger").query("component == 'process_reward_training' and quantity == 'tflops'")
    assert rows.loc[rows["method"] == "cheaper", "value"].tolist() == [0.125]
    assert 0.125 not in rows.loc[rows["method"] == "euphonium", "value"].tolist()


def test_one_that_is_not_there_is_named_before_anything_runs(bench: Bench, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = bench("--methods", "euphonium", "--set", f"euphonium.process_model={missing}", budget=1)
    assert result.code == 2
    assert "no process reward model at" in result.err
    assert "missing" in result.err
    assert not (result.folder / "settings.yaml").exists()
