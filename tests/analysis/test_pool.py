"""Pooling over runs: the numbers of its parts, what is refused, and what is left unpooled."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.convergence import convergence
from analysis.pool import FINAL, SPEED, main, pool
from analysis.records import RecordError, Records, load_run
from analysis.statistics.pooling import pooled
from tests.analysis.synthetic import Plan, write_run

PLAN = Plan(
    seeds=8,
    spread=0.004,
    samples=8,
    with_samples=False,
    rewards=("accuracy", "caption_match", "motion_quality"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("pool")
    return [
        write_run(home / f"run{number}", replace(PLAN, rng=number, first_seed=10 * number))
        for number in range(3)
    ]


@pytest.fixture(scope="module")
def runs(folders: list[Path]) -> list[Records]:
    return [load_run(folder) for folder in folders]


def test_the_pooled_speed_up_is_that_of_the_runs_own(runs: list[Records]) -> None:
    speed, final = pool(runs, "euphonium", "flow_grpo")
    assert (speed.quantity, final.quantity) == (SPEED, FINAL)
    ratios = [convergence(run, "flow_grpo").speed("euphonium", "iterations").ratio for run in runs]  # type: ignore[union-attr]
    expected = pooled([math.log(ratio.value) for ratio in ratios], [ratio.error for ratio in ratios])
    assert speed.result == expected
    assert [effect.run for effect in speed.effects] == ["run0", "run1", "run2"]
    assert final.result is not None
    assert final.result.mean.n == 3
    assert final.result.mean.mean == pytest.approx(np.mean([e.interval.mean for e in final.effects]), abs=0.2)


def test_a_run_in_which_the_method_fails_is_not_left_out(runs: list[Records], tmp_path: Path) -> None:
    slow = load_run(
        write_run(
            tmp_path / "slow",
            replace(PLAN, methods=("flow_grpo", "euphonium"), failed={("euphonium", s): 5 for s in range(8)}),
        )
    )
    for entry in pool([*runs, slow], "euphonium", "flow_grpo"):
        assert entry.result is None
        assert "slow: " in entry.why_not
        assert len(entry.effects) == 3


def test_what_cannot_be_pooled_is_refused(runs: list[Records]) -> None:
    with pytest.raises(RecordError, match="two runs or more"):
        pool(runs[:1], "euphonium")
    with pytest.raises(RecordError, match=r"no method 'euphonum'; did you mean 'euphonium'\?"):
        pool(runs, "euphonum")
    with pytest.raises(RecordError, match="compared with itself"):
        pool(runs, "flow_grpo", "flow_grpo")


def test_the_command_line(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*map(str, folders), "--method", "euphonium", "--baseline", "flow_grpo"]
    assert main([*given, "--output", str(tmp_path)]) == 0
    assert "whole-curve speed-up" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "tables" / "pooled.csv")
    assert table.groupby("quantity").size().to_dict() == {SPEED: 4, FINAL: 4}
    assert (tmp_path / "figures" / "forest.png").stat().st_size > 10_000
    assert "| pooled | 3 runs |" in (tmp_path / "tables" / "pooled.md").read_text()
    assert main([*given, "--output", str(folders[0])]) == 2
    assert "holds a run" in capsys.readouterr().err
