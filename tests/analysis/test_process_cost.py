"""What a process reward costs: charged to one run, shared, and the number of runs that pay for it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.convergence import WHOLE, convergence
from analysis.process_cost import RANGES, SHARED, main, process_costs
from analysis.records import RecordError, load_run
from tests.analysis.synthetic import PRM_TFLOPS, Plan, write_run


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = Plan(("euphonium", "flow_grpo"), seeds=4, budget_tflops=1.2, spread=0.002, with_samples=False)
    return write_run(tmp_path_factory.mktemp("priced"), plan)


def test_without_a_charge_it_is_the_speed_up_of_the_convergence(priced: Path) -> None:
    run = load_run(priced)
    prices = process_costs(run, "flow_grpo")
    course = convergence(run, "flow_grpo")
    assert [entry.span for entry in prices] == list(RANGES)
    for entry in prices:
        assert entry.making == pytest.approx(PRM_TFLOPS)
        known = course.speed("euphonium", "tflops", entry.span)
        assert known is not None
        free = entry.speed[None]
        assert free.value == pytest.approx(known.ratio.value, rel=1e-6)
        if entry.span == WHOLE:  # elsewhere the convergence widens for its secondary ranges, too
            assert (free.low, free.high) == pytest.approx((known.ratio.low, known.ratio.high), rel=1e-6)


def test_a_charge_is_added_to_what_the_method_spends(priced: Path) -> None:
    """By hand: costs to the target from the speed-up without a charge, and the making on top of one of them."""
    run = load_run(priced)
    course = convergence(run, "flow_grpo")
    for entry in process_costs(run, "flow_grpo"):
        known = course.speed("euphonium", "tflops", entry.span)
        assert known is not None
        for runs in SHARED:
            charge = 0.0 if runs is None else PRM_TFLOPS / runs
            expected = known.baseline_cost / (known.cost + charge)
            # Means over a range of targets, of ratios and of costs, are nearly each other's ratios.
            assert entry.speed[runs].value == pytest.approx(expected, rel=1e-6 if runs is None else 0.03)
        # After so many runs both have spent the same.
        spent = PRM_TFLOPS + entry.runs[0] * known.cost
        assert spent == pytest.approx(entry.runs[0] * known.baseline_cost, rel=1e-6)
        assert entry.runs[1] < entry.runs[0] < entry.runs[2]


def test_a_method_that_is_no_faster_never_pays(tmp_path: Path) -> None:
    slow = Plan(("euphonium_slow", "dance_grpo"), seeds=3, budget_tflops=1.2, with_samples=False)
    prices = process_costs(load_run(write_run(tmp_path, slow)), "dance_grpo")
    assert len(prices) == len(RANGES)
    assert all(entry.speed[None].value < 1 for entry in prices)
    assert all(math.isinf(entry.runs[0]) for entry in prices)


def test_the_command_writes_the_table(priced: Path, tmp_path: Path, capsys) -> None:
    assert main([str(priced), "--output", str(tmp_path), "--baseline", "flow_grpo"]) == 0
    assert "What the process reward costs" in capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "tables" / "process_cost.csv")
    assert frame["span"].tolist() == list(RANGES)
    assert np.isfinite(frame["speed_up_1"]).all()
    assert "pays after" in (tmp_path / "tables" / "process_cost.md").read_text()


def test_it_is_refused_where_there_is_nothing_to_price(tmp_path: Path, capsys) -> None:
    folder = write_run(tmp_path / "run", Plan(("flow_grpo", "dance_grpo"), seeds=2, with_samples=False))
    with pytest.raises(RecordError, match="no method of flow_grpo, dance_grpo uses a process reward"):
        process_costs(load_run(folder), "flow_grpo")
    charged = Plan(seeds=2, budget_tflops=1.2, charge_prm=True, with_samples=False)
    charged_run = write_run(tmp_path / "charged", charged)
    assert main([str(charged_run)]) == 2
    assert "charge the process reward already" in capsys.readouterr().err
