"""What a process reward costs, and the number of runs that pay for it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.convergence import WHOLE, convergence
from analysis.process_cost import Price, after, process_cost_table, process_costs
from analysis.records import load_run
from tests.analysis.synthetic import PRM_TFLOPS, Plan, write_run

PLAN = Plan(
    ("euphonium", "flow_grpo"),
    seeds=4,
    budget_tflops=1.2,
    spread=0.002,
    rewards=("accuracy", "caption_match"),
    with_samples=False,
)


def priced(folder: Path, plan: Plan, baseline: str = "flow_grpo") -> list[Price]:
    run = load_run(write_run(folder, plan))
    return process_costs(run, convergence(run, baseline))


def test_the_speed_up_is_that_of_the_convergence_and_the_runs_follow_from_it(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, PLAN))
    course = convergence(run, "flow_grpo")
    [entry] = process_costs(run, course)
    assert entry.making == pytest.approx(PRM_TFLOPS)
    assert entry.speed == course.speed("euphonium", "tflops", WHOLE)
    # After so many runs both have spent the same.
    ratio, spent = entry.speed.ratio, entry.speed.baseline_cost
    for runs, faster in zip(entry.runs, (ratio.value, ratio.high, ratio.low), strict=True):
        assert PRM_TFLOPS + runs * spent / faster == pytest.approx(runs * spent)
    assert entry.runs[1] < entry.runs[0] < entry.runs[2]
    frame, table = process_cost_table([entry])
    assert frame["runs"].tolist() == [entry.runs[0]]
    assert table.rows[0][:2] == ("euphonium", "0.3")


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ((24.3, 21.2, 30.4), "24 runs\n21 to 30"),
        ((187.9, 57.3, math.inf), "190 runs\n57 or more"),
        ((math.inf, 4.57, math.inf), "never\n4.6 or more"),
        ((math.inf, math.inf, math.inf), "never"),
        ((0.4, 0.2, 3.0), "1 run\n1 to 3"),
        ((12.0, math.nan, math.nan), "12 runs"),
    ],
)
def test_runs_are_said_in_two_digits(runs: tuple[float, float, float], said: str) -> None:
    assert after(*runs) == said


def test_a_method_that_is_no_faster_never_pays(tmp_path: Path) -> None:
    plan = replace(PLAN, methods=("euphonium_slow", "dance_grpo"), seeds=3)
    [entry] = priced(tmp_path, plan, "dance_grpo")
    assert entry.speed.ratio.value < 1
    assert math.isinf(entry.runs[0])


def test_one_seed_gives_no_price(tmp_path: Path) -> None:
    """Its baseline is not shown to gain, so there is no speed-up."""
    assert priced(tmp_path, replace(PLAN, seeds=1)) == []


def test_nothing_is_priced_where_there_is_nothing_to_pay(tmp_path: Path) -> None:
    without = replace(PLAN, methods=("flow_grpo", "dance_grpo"))
    charged = replace(PLAN, charge_prm=True)
    assert priced(tmp_path / "without", without) == []
    assert priced(tmp_path / "charged", charged) == []
    assert priced(tmp_path / "baseline", PLAN, "euphonium") == []
    assert process_cost_table([])[1].rows == ()
