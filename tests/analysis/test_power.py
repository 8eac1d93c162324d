"""Seeds needed, from runs whose spread is known."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.curves import counted_curves
from analysis.power import main, power_note
from analysis.records import RecordError, load_run
from analysis.statistics import log_cost_spread, seeds_needed
from tests.analysis.synthetic import Plan, write_run


def cells(text: str) -> tuple[int, int]:
    """Both numbers of a cell such as `9 (up to 20)`."""
    seen, upper = text.removesuffix(")").split(" (up to ")
    return int(seen), int(upper)


def test_seeds_needed_follow_from_the_spread(whole_run: Path) -> None:
    run = load_run(whole_run)
    note = power_note(run, baseline="flow_grpo")
    assert [row[0] for row in note.rows] == ["euphonium", "dance_grpo"]
    curves = counted_curves(run).query("split == 'held_out' and reward == 'accuracy'")
    tables = {
        method: group.pivot(index="seed", columns="iteration", values="value")
        for method, group in curves.groupby("method")
    }
    baseline = tables["flow_grpo"]
    start, end = baseline[0].mean(), baseline[30].mean()
    target = start + 0.8 * (end - start)
    spreads = [
        log_cost_spread(tables[name].columns, tables[name], target) for name in ("euphonium", "flow_grpo")
    ]
    spread = math.sqrt(np.mean(np.square(spreads)))
    small, large = (cells(cell) for cell in note.rows[0][2:])
    assert small[0] == seeds_needed(1.25, spread).seeds
    assert large[0] == seeds_needed(1.66, spread).seeds
    assert large[0] < small[0] < small[1]
    assert "1.66 times sooner than flow_grpo" in note.note
    assert f"{target:.3f}" in note.note


def test_more_spread_needs_more_seeds(tmp_path: Path) -> None:
    needed = []
    for spread in (0.01, 0.03):
        folder = write_run(
            tmp_path / str(spread), Plan(seeds=8, spread=spread, prompts=16, with_samples=False)
        )
        needed.append(cells(power_note(load_run(folder)).rows[0][3])[0])
    assert needed[0] < needed[1]


def test_a_lower_target_is_another_question(whole_run: Path) -> None:
    run = load_run(whole_run)
    half, usual = power_note(run, target_fraction=0.5), power_note(run)
    assert "50% of dance_grpo's gain" in half.note
    assert half.rows != usual.rows


def test_costs_in_proportion_need_the_same_seeds(whole_run: Path) -> None:
    """What an iteration uses is the same for all iterations of a method: a shift of the log cost."""
    run = load_run(whole_run)
    iterations, videos = power_note(run), power_note(run, unit="videos")
    assert videos.rows == iterations.rows
    assert "counted in videos" in videos.title


def test_one_method_is_planned_against_its_like(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Plan(methods=("euphonium",), seeds=6, with_samples=False))
    note = power_note(load_run(folder))
    assert "over euphonium" in note.title
    assert [row[0] for row in note.rows] == ["one like euphonium"]


def test_one_seed_cannot_say(tmp_path: Path) -> None:
    note = power_note(load_run(write_run(tmp_path, Plan(seeds=1, with_samples=False))))
    assert note.rows == ()
    assert "One finished seed" in note.note


def test_a_target_that_may_not_be_reached_is_told(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path, Plan(methods=("flow_grpo", "euphonium"), seeds=3, spread=0.1, with_samples=False)
    )
    note = power_note(load_run(folder), target_fraction=1.0)
    assert note.rows[0][1:] == ("–", "–", "–")
    assert "Nothing can be planned for euphonium" in note.note


def test_unfinished_methods_are_left_out(tmp_path: Path) -> None:
    plan = Plan(failed={("euphonium", seed): 3 for seed in range(3)}, with_samples=False)
    run = load_run(write_run(tmp_path, plan))
    assert [row[0] for row in power_note(run).rows] == ["flow_grpo"]
    assert "No finished seed of euphonium" in power_note(run, baseline="euphonium").note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": "flow-grpo"}, "did you mean 'flow_grpo'"),
        ({"unit": "parsecs"}, "no costs in 'parsecs'"),
    ],
)
def test_wrong_questions_are_refused(whole_run: Path, arguments: dict, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        power_note(load_run(whole_run), **arguments)
    with pytest.raises(ValueError, match="at most 1"):
        power_note(load_run(whole_run), target_fraction=1.2)


def test_the_command(whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(whole_run), "--baseline", "dance_grpo", "--target-fraction", "0.6"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "Seeds needed to show a speed-up over dance_grpo, counted in iterations"
    assert "euphonium" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert main([str(tmp_path / "nothing")]) == 2
    assert main([str(whole_run), "--baseline", "ppo"]) == 2
    assert main([str(whole_run), "--target-fraction", "0"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)


def test_the_command_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.power", "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--baseline", "--target-fraction", "--unit", "RUN"):
        assert option in done.stdout
