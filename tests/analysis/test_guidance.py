"""Diagnostics of guidance: gaps, and accuracy by noise level, where they were recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.guidance import (
    Trend,
    accuracies,
    accuracies_table,
    accuracy_frame,
    gap_frame,
    gaps,
    gaps_table,
    verdict,
)
from analysis.records import load_run
from analysis.statistics import Interval, mean_interval
from tests.analysis.synthetic import SIGMAS, Plan, write_run


def test_a_gap_is_guided_less_unguided_at_start_and_end(whole_run: Path) -> None:
    run = load_run(whole_run)
    found = {entry.of: entry for entry in gaps(run)}
    assert set(found) == {"caption_match", "motion_quality", "accuracy"}
    metrics = run.iterations.astype({"metric": str}).pivot_table(
        index=["seed", "iteration"], columns="metric", values="value", aggfunc="first"
    )
    own = metrics["diagnostic/guided/accuracy"] - metrics["diagnostic/unguided/accuracy"]
    own = own.dropna().unstack("iteration")
    entry = found["accuracy"]
    assert entry.first == mean_interval(own[0])
    assert entry.last == mean_interval(own[30])
    assert entry.change.mean == pytest.approx((own[30] - own[0]).mean())
    assert entry.change.high < 0
    assert {entry.method for entry in gaps(run)} == {"euphonium"}


@pytest.mark.parametrize(
    ("last", "change", "said"),
    [
        ((0.0, 0.02), (-0.1, 0.02), "narrows, perhaps to nothing"),
        ((0.05, 0.02), (-0.1, 0.02), "narrows"),
        ((0.1, 0.02), (0.0, 0.02), "no change is shown"),
        ((0.2, 0.02), (0.1, 0.02), "widens"),
        ((0.2, np.nan), (0.1, np.nan), "unknown (one seed)"),
    ],
)
def test_what_is_said_of_a_gap(last: tuple[float, float], change: tuple[float, float], said: str) -> None:
    intervals = (Interval(mean, mean - width, mean + width, 3) for mean, width in ((0.1, 0.02), last, change))
    assert verdict(Trend("m", "r", *intervals)) == said


def test_accuracy_is_told_from_noise_to_video(whole_run: Path) -> None:
    run = load_run(whole_run)
    found = accuracies(run)
    assert [entry.of for entry in found] == [float(sigma) for sigma in SIGMAS]
    frame = accuracy_frame(run)
    end = frame[(frame["iteration"] == 30) & (frame["sigma"] == 0)]["value"]
    assert found[-1].last.mean == pytest.approx(end.mean())
    assert found[-1].change.mean < 0
    numbers, table = accuracies_table(found)
    assert numbers["sigma"].tolist() == [float(sigma) for sigma in SIGMAS]
    assert table.rows[0][1] == "1"


def test_where_nothing_was_recorded_nothing_is_shown(tmp_path: Path) -> None:
    plan = Plan(methods=("dance_grpo",), rewards=("accuracy",), with_samples=False)
    for folder in (tmp_path / "unguided", tmp_path / "old"):
        run = load_run(write_run(folder, plan))
        assert not len(gap_frame(run))
        assert gaps_table(gaps(run))[1].rows == ()
        plan = Plan(methods=("euphonium",), rewards=("accuracy",), with_samples=False, diagnostics=False)


def test_only_seeds_that_finished_count(tmp_path: Path) -> None:
    plan = Plan(
        methods=("euphonium",), rewards=("accuracy",), with_samples=False, failed={("euphonium", 1): 10}
    )
    run = load_run(write_run(tmp_path, plan))
    assert set(gap_frame(run)["seed"]) == {0, 2}
    assert all(entry.change.n == 2 for entry in gaps(run))
