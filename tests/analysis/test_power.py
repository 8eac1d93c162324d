"""Seeds needed, from runs whose spread is known."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from scipy.stats import chi2

from analysis.convergence import WHOLE, convergence
from analysis.power import power_table
from analysis.records import Records, load_run
from analysis.statistics.planning import seeds_needed
from analysis.tables.text_table import TextTable
from tests.analysis.synthetic import Plan, write_run


def table(run: Records, baseline: str | None = None) -> TextTable:
    return power_table(convergence(run, baseline))


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
