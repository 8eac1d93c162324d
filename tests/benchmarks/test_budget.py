"""Budgets: methods stop at the last iteration that fits, in every unit, and cannot be had for nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from analysis.schema import CHARGED, UNITS, WHOLE, in_words
from benchmarks.budget import Budget
from benchmarks.ledger import Ledger
from tests.benchmarks.harness import Bench, Result, quick

METHODS = ("euphonium", "flow_grpo", "dance_grpo")


def used(result: Result, method: str, unit: str) -> float:
    """What the records say that a method was charged with."""
    rows = result.rows("ledger")
    rows = rows[(rows["method"] == method) & (rows["iteration"] > 0)]
    if unit == "iterations":
        return float(rows["iteration"].max())
    charged = [WHOLE] if unit == "seconds" else CHARGED
    return float(rows[rows["component"].isin(charged) & (rows["quantity"] == unit)]["value"].sum())


def iterations(result: Result) -> dict[str, int]:
    return dict(zip(result.runs()["method"], result.runs()["iterations"], strict=True))


#: At the end alone: what evaluations cost is charged to nobody.
SELDOM = {"every": 100, "train_prompts": 1, "samples_per_prompt": 2, "num_steps": 1, "diagnostic_prompts": 0}


@pytest.fixture(scope="module")
def costs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Method -> unit -> what its first iteration costs."""
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        bench = Bench(world, tmp_path_factory.mktemp("costs"))
        result = bench("--methods", ",".join(METHODS), budget=1, evaluation=SELDOM)
    assert result.code == 0
    return {method: {unit: used(result, method, unit) for unit in UNITS} for method in METHODS}


@pytest.mark.parametrize("unit", ["videos", "nfe", "tflops"])
def test_a_method_stops_at_the_last_iteration_that_fits(
    bench: Bench, costs: dict[str, dict[str, float]], unit: str
) -> None:
    """Totals match within one iteration of the method, whatever an iteration of each costs."""
    amount = 3.5 * max(cost[unit] for cost in costs.values())
    given = ("--methods", ",".join(METHODS), "--budget-unit", unit)
    result = bench(*given, budget=amount, evaluation=SELDOM)
    assert result.code == 0
    done = iterations(result)
    for method in METHODS:
        each = costs[method][unit]
        assert done[method] == math.floor(amount / each)
        total = used(result, method, unit)
        assert amount - each < total <= amount * (1 + 1e-9)
    if unit != "videos":
        assert len(set(done.values())) > 1  # else this shows nothing
    assert f"{in_words(amount, unit)} each" in " ".join(result.out.split())


def test_seconds(bench: Bench) -> None:
    """As long as the next iteration is likely to fit; clocks are no constants, so within two iterations."""
    given = ("--methods", "dance_grpo", "--budget-unit", "seconds")
    result = bench(*given, budget=4, evaluation=SELDOM)
    assert result.code == 0
    rows = result.rows("ledger")
    each = rows[(rows["component"] == WHOLE) & (rows["quantity"] == "seconds")]["value"]
    assert len(each) > 2
    assert 4 - 2 * each.max() < each.sum() < 4 + each.max()


@pytest.mark.parametrize("unit", ["tflops", "nfe", "videos"])
def test_less_than_one_iteration(bench: Bench, unit: str) -> None:
    """Told with the price, before an evaluation is paid for."""
    result = bench("--methods", "dance_grpo", "--budget-unit", unit, budget=1e-9)
    assert result.code == 2
    assert (
        f"error: dance_grpo seed 0: budget is 1e-09 {unit}, less than one iteration of dance_grpo"
        in result.err
    )
    assert "give at least" in result.err
    assert not len(result.rows("evaluations").query("method == 'dance_grpo'"))


def test_prices_are_read_from_the_last_iterations() -> None:
    """Costs that vary: the next iteration is taken to cost what the last five did on average."""
    ledger, budget = Ledger(), Budget(30.0, "videos")
    for videos in (1, 2, 2, 2, 2, 12):
        assert budget.has_room(ledger)
        ledger.add({("rollout", "videos"): videos})
    assert ledger.each("videos") == 4
    assert ledger.used("videos") == 21
    assert budget.expected_iterations(ledger) == 6 + 2
    assert budget.share(ledger) == pytest.approx(0.7)
    for _ in range(2):
        assert budget.has_room(ledger)
        ledger.add({("rollout", "videos"): 4})
    assert not budget.has_room(ledger)


def with_cost(world: Path, folder: Path, **cost: float) -> Path:
    """A copy of the world's process reward that says what it cost."""
    folder.mkdir()
    for file in (world / "process_reward").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "cost": cost}))
    return folder


def test_the_training_of_the_process_reward_can_be_charged(bench: Bench, world: Path, tmp_path: Path) -> None:
    """Methods that use it pay, others do not; beside the totals it is reported in any case."""
    prm = with_cost(world, tmp_path / "prm", tflops=1.0, nfe=10, videos=8, seconds=3)
    given = ("--methods", "euphonium,dance_grpo", "--process-reward", prm, "--budget-unit", "videos")
    free = bench(*given, output="free", budget=16, evaluation=SELDOM)
    charged = bench(*given, "--charge-prm", output="charged", budget=16, evaluation=SELDOM)
    assert (free.code, charged.code) == (0, 0)
    assert iterations(free) == {"euphonium": 4, "dance_grpo": 4}
    assert iterations(charged) == {"euphonium": 2, "dance_grpo": 4}
    for result in (free, charged):
        rows = result.rows("ledger").query("component == 'process_reward_training'")
        assert set(rows["method"]) == {"euphonium"}
        assert set(rows["iteration"]) == {0}
        assert rows.set_index("quantity")["value"]["videos"] == 8


def test_a_process_reward_that_costs_more_than_the_budget(bench: Bench, world: Path, tmp_path: Path) -> None:
    prm = with_cost(world, tmp_path / "prm", tflops=1.0, videos=800)
    given = ("--methods", "euphonium", "--process-reward", prm, "--budget-unit", "videos", "--charge-prm")
    result = bench(*given, budget=16)
    assert result.code == 2
    assert "800 of 16 videos" in result.err
    assert not result.folder.exists()  # told before anything is trained or written


def test_a_process_reward_of_unknown_cost_cannot_be_charged(bench: Bench) -> None:
    result = bench("--methods", "euphonium", "--budget-unit", "videos", "--charge-prm", budget=16)
    assert result.code == 2
    assert "does not record what its training cost" in result.err
