"""Costs against sums written down by hand, from a ledger and without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.costs import cumulative_costs, known_units, spending, spending_frame, totals
from analysis.curves import seed_means
from analysis.records import load_run
from analysis.schema import CHARGED, UNITS
from analysis.tables.compute import budget_tables
from tests.analysis.synthetic import PRM_TFLOPS, Plan, tflops, write_run

FEW = Plan(seeds=2, rewards=("accuracy", "caption_match"), with_samples=False)


def _row(costs: pd.DataFrame, method: str, seed: int, iteration: int) -> pd.Series:
    found = costs.set_index(["method", "seed", "iteration"])
    return found.loc[(method, seed, iteration)]


def test_costs_add_up_over_charged_components_alone(whole_run: Path) -> None:
    run = load_run(whole_run)
    row = _row(cumulative_costs(run), "flow_grpo", 1, 7)
    ledger = run.ledger[(run.ledger["method"] == "flow_grpo") & (run.ledger["seed"] == 1)]
    early = ledger[ledger["iteration"] <= 7]
    charged = early[
        early["component"].isin(["rollout", "update", "process_reward", "decoder", "outcome_rewards"])
    ]
    assert row["iterations"] == 7
    assert row["tflops"] == pytest.approx(7 * sum(tflops("flow_grpo").values()))
    for unit in ("tflops", "videos", "nfe"):
        assert row[unit] == pytest.approx(charged.loc[charged["quantity"] == unit, "value"].sum())
    whole = early[(early["component"] == "whole") & (early["quantity"] == "seconds")]
    assert row["seconds"] == pytest.approx(whole["value"].sum())
    assert set(charged["component"]) <= set(CHARGED)


def test_every_unit_starts_at_nothing_and_never_falls(whole_run: Path) -> None:
    costs = cumulative_costs(load_run(whole_run))
    assert (costs.loc[costs["iteration"] == 0, list(UNITS)] == 0).all(axis=None)
    assert (costs.groupby(["method", "seed"])[list(UNITS)].diff().dropna() > 0).all(axis=None)
    assert known_units(costs) == tuple(UNITS)


def test_training_the_process_reward_is_paid_before_the_first_iteration(tmp_path: Path) -> None:
    free = cumulative_costs(load_run(write_run(tmp_path / "free", FEW)))
    plan = Plan(seeds=2, rewards=FEW.rewards, with_samples=False, charge_prm=True)
    paid = cumulative_costs(load_run(write_run(tmp_path / "paid", plan)))
    for unit, price in (("tflops", PRM_TFLOPS), ("seconds", 30.0), ("videos", 1500.0), ("nfe", 0.0)):
        more = paid[unit] - free[unit]
        guided = paid["method"] == "euphonium"
        assert more[guided].to_numpy() == pytest.approx(price)
        assert more[~guided].to_numpy() == pytest.approx(0.0)
    assert (paid["iterations"] == free["iterations"]).all()


def test_without_a_ledger_iterations_and_seconds_remain(tmp_path: Path) -> None:
    plan = Plan(seeds=2, ledger=False, diagnostics=False, rewards=FEW.rewards, with_samples=False)
    run = load_run(write_run(tmp_path, plan))
    assert any("ledger.parquet is missing" in note for note in run.notes)
    costs = cumulative_costs(run)
    assert known_units(costs) == ("iterations", "seconds")
    assert _row(costs, "euphonium", 0, 12)["seconds"] == pytest.approx(0.7 * 12)
    found = spending(run)
    assert found.totals["tflops"].isna().all()
    assert [table.title for table in budget_tables(run, found)] == ["Compute of one seed"]


def test_failed_seeds_do_not_count_in_totals(broken_run: Path) -> None:
    run = load_run(broken_run)
    each = totals(run)
    assert len(each) == 7
    assert (each["iterations"] == 30).all()


def test_budget_tells_whether_methods_used_the_same(tmp_path: Path, whole_run: Path) -> None:
    plan = Plan(seeds=2, budget_tflops=2.0, rewards=FEW.rewards, with_samples=False)
    run = load_run(write_run(tmp_path, plan))
    matched = spending(run)
    assert matched.unit == "tflops"
    assert matched.matched
    assert matched.totals["iterations"].nunique() == 3
    assert (matched.totals["tflops"] <= 2.0).all()
    assert "all methods used the same amount" in budget_tables(run, matched)[0].note

    other = load_run(whole_run)
    unmatched = spending(other)
    used = {name: 30 * sum(tflops(name).values()) for name in other.methods}
    assert unmatched.totals["tflops"].to_dict() == pytest.approx(used)
    assert unmatched.spread == 0  # in iterations, the budget's unit
    ratio = max(used.values()) / min(used.values())
    assert budget_tables(other, unmatched)[0].rows[-1][4] == f"{ratio:.2f}"


def test_components_and_totals_are_one_account(whole_run: Path) -> None:
    run = load_run(whole_run)
    frame = spending_frame(spending(run))
    own = frame[(frame["method"] == "euphonium") & (frame["quantity"] == "tflops")].set_index("component")[
        "value"
    ]
    assert own["charged"] == pytest.approx(own[list(CHARGED)].sum())
    assert own["evaluation"] > 0
    assert own["process_reward_training"] == pytest.approx(PRM_TFLOPS)
    memory = frame[(frame["component"] == "whole") & (frame["quantity"] == "peak_memory_mb")]
    assert memory.set_index("method")["value"]["euphonium"] == 900.0


def test_a_run_that_trained_nothing_costs_nothing(tmp_path: Path) -> None:
    plan = Plan(seeds=1, methods=("dance_grpo",), failed={("dance_grpo", 0): 0}, rewards=FEW.rewards)
    run = load_run(write_run(tmp_path, plan))
    costs = cumulative_costs(run)
    assert costs["iteration"].tolist() == [0]
    assert known_units(costs) == ()
    assert np.isnan(spending(run).spread)
    assert len(seed_means(run)) > 0
