"""Seeds needed, from runs whose spread is known."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import chi2

from analysis.convergence import WHOLE, convergence
from analysis.power import main, power_table
from analysis.records import RecordError, Records, load_run
from analysis.statistics.planning import seeds_needed
from analysis.tables.text_table import TextTable
from tests.analysis.synthetic import Plan, write_run


def table(run: Records, baseline: str | None = None, unit: str = "iterations") -> TextTable:
    return power_table(run, convergence(run, baseline), unit)


def cells(text: str) -> tuple[int, int]:
    """Both numbers of a cell such as `9 to 20`, or of one in which they are equal."""
    seen, *_, upper = [*text.split(" to "), text.split(" to ")[-1]]
    return int(seen), int(upper)


def test_seeds_needed_follow_from_the_spread(tmp_path: Path) -> None:
    plan = Plan(seeds=6, spread=0.012, samples=8, rewards=("accuracy",), with_samples=False)
    run = load_run(write_run(tmp_path, plan))
    found = table(run)
    assert [row[0] for row in found.rows] == ["euphonium", "dance_grpo"]
    entry = convergence(run).speed("euphonium", "iterations", WHOLE)
    assert entry is not None
    squares = [spread**2 for spread in entry.ratio.spread]
    spread = math.sqrt(sum(squares) / 2)
    freedom = 5 * sum(squares) ** 2 / sum(square**2 for square in squares)
    upper = spread * math.sqrt(freedom / chi2.ppf(0.2, freedom))
    assert found.rows[0][1] == f"{spread:.3f}"
    for cell, ratio in zip(found.rows[0][2:], (1.25, 1.66), strict=True):
        assert cells(cell) == tuple(seeds_needed(ratio, s, comparisons=2) for s in (spread, upper))
    small, large = (cells(cell) for cell in found.rows[0][2:])
    assert large[0] < small[0] < small[1]
    assert "80% power at 95 % confidence, all 2 comparisons together" in found.note


def test_more_spread_needs_more_seeds(tmp_path: Path) -> None:
    needed = []
    for spread in (0.01, 0.03):
        plan = Plan(seeds=8, spread=spread, prompts=16, rewards=("accuracy",), with_samples=False)
        needed.append(cells(table(load_run(write_run(tmp_path / str(spread), plan))).rows[0][3])[0])
    assert needed[0] < needed[1]


def test_costs_in_proportion_need_the_same_seeds(whole_run: Path) -> None:
    """What an iteration uses is the same for all iterations of a method: a shift of the log cost."""
    run = load_run(whole_run)
    iterations, videos = table(run), table(run, unit="videos")
    assert videos.rows == iterations.rows
    assert "counted in videos" in videos.title


def test_without_a_second_method_or_seed_it_says_why(tmp_path: Path) -> None:
    alone = Plan(methods=("euphonium",), seeds=3, rewards=("accuracy",), with_samples=False)
    found = table(load_run(write_run(tmp_path / "alone", alone)))
    assert (found.rows, found.note) == ((), "No seeds can be planned: a speed-up needs a second method.")
    one = Plan(seeds=1, rewards=("accuracy",), with_samples=False)
    found = table(load_run(write_run(tmp_path / "one", one)))
    assert found.rows == ()
    assert "flow_grpo has one finished seed" in found.note


def test_a_range_that_is_not_reached_has_no_number(tmp_path: Path) -> None:
    plan = Plan(methods=("flow_grpo", "slow"), seeds=4, rewards=("accuracy",), with_samples=False)
    folder = write_run(tmp_path, plan)
    file = folder / "records" / "evaluations.parquet"
    frame = pd.read_parquet(file)
    slow = frame["method"] == "slow"
    frame.loc[slow, "value"] = 0.65 + 0.3 * (frame.loc[slow, "value"] - 0.65)
    frame.to_parquet(file, index=False)
    found = table(load_run(folder))
    assert found.rows == (("slow", "–", "–", "–"),)
    assert "does not get through the range" in found.note


def test_unfinished_methods_are_left_out(tmp_path: Path) -> None:
    plan = Plan(
        failed={("euphonium", seed): 3 for seed in range(3)}, rewards=("accuracy",), with_samples=False
    )
    run = load_run(write_run(tmp_path, plan))
    assert [row[0] for row in table(run).rows] == ["dance_grpo"]
    assert "no seed of the baseline euphonium has finished" in table(run, "euphonium").note


def test_wrong_questions_are_refused(whole_run: Path) -> None:
    run = load_run(whole_run)
    with pytest.raises(RecordError, match="did you mean 'flow_grpo'"):
        table(run, baseline="flow-grpo")
    with pytest.raises(RecordError, match=r"no costs in 'parsecs' .*: there are iterations, videos"):
        table(run, unit="parsecs")


def test_the_command(whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(whole_run), "--baseline", "dance_grpo"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "Seeds needed to show a speed-up over dance_grpo, counted in iterations"
    assert "euphonium" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert main([str(tmp_path / "nothing")]) == 2
    assert main([str(whole_run), "--baseline", "ppo"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("error: ") for line in errors)


def test_the_command_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.power", "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--baseline", "RUN"):
        assert option in done.stdout
