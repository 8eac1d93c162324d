"""What gains cost: methods at equal reward, the Pareto front, the figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.convergence import convergence
from analysis.records import load_run
from analysis.schema import KL_TO_BASE
from analysis.tradeoffs import at_equal_reward, course_frame, front, tradeoffs_figure, tradeoffs_table
from tests.analysis.synthetic import Plan, write_run

METHODS = ("flow_grpo", "wide", "never")
#: Headline reward, diversity and KL by iteration: straight lines from (0.5, 0.4, 0).
SLOPES = {"flow_grpo": (0.01, -0.005, 4.0), "wide": (0.02, -0.002, 1.0), "never": (0.001, 0.0, 0.5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tradeoffs")
    plan = Plan(
        methods=METHODS, seeds=4, iterations=20, with_samples=False, rewards=("accuracy", "diversity")
    )
    write_run(home, plan)
    rng = np.random.default_rng(0)
    rows = [("base", 0, 0, reward, value) for reward, value in (("accuracy", 0.5), ("diversity", 0.4))]
    kl = []
    for method, (gain, loss, distance) in SLOPES.items():
        for seed in range(4):
            for at in (5, 10, 15, 20):
                noise = rng.normal(0, 1e-4)
                rows += [
                    (method, seed, at, "accuracy", 0.5 + gain * at + noise),
                    (method, seed, at, "diversity", 0.4 + loss * at),
                ]
            kl += [(method, seed, at, KL_TO_BASE, distance * at) for at in (10, 20)]
    frame = pd.DataFrame(rows, columns=["method", "seed", "iteration", "reward", "value"])
    frame = frame.assign(split="held_out", prompt="a ball", sample=0)
    frame.to_parquet(home / "records" / "evaluations.parquet", index=False)
    names = ["method", "seed", "iteration", "metric", "value"]
    pd.DataFrame(kl, columns=names).to_parquet(home / "records" / "iterations.parquet", index=False)
    return home


def test_methods_are_read_where_they_reach_the_level(folder: Path) -> None:
    """flow_grpo gains 0.2, so the level is 0.65: reached by it at iteration 15, by `wide` at 7.5, by `never` never."""
    run = load_run(folder)
    found = {entry.method: entry for entry in at_equal_reward(run, convergence(run))}
    assert found["flow_grpo"].reward == pytest.approx(0.65, abs=1e-3)
    for method, at in (("flow_grpo", 15.0), ("wide", 7.5)):
        _, loss, distance = SLOPES[method]
        assert (found[method].reached, found[method].seeds) == (4, 4)
        assert found[method].diversity.mean == pytest.approx(0.4 + loss * at, abs=1e-3)
        assert found[method].kl.mean == pytest.approx(distance * at, rel=0.02)
    assert (found["never"].reached, found["never"].seeds) == (0, 4)
    frame, table = tradeoffs_table(run, list(found.values()))
    assert frame.set_index("method").loc["wide", "kl"] == pytest.approx(7.5, rel=0.02)
    assert [row[1] for row in table.rows] == ["4 of 4", "4 of 4", "0 of 4"]


def test_kl_is_interpolated_where_only_rewards_were_evaluated(folder: Path) -> None:
    frame = course_frame(load_run(folder)).query("method == 'flow_grpo' and seed == 0")
    assert frame["kl"].tolist() == pytest.approx([0, 20, 40, 60, 80])


def test_the_front_is_what_no_other_beats_on_both() -> None:
    points = pd.DataFrame(
        {
            "method": list("abcd"),
            "gain": [1.0, 2.0, 2.0, 0.5],
            "kl": [1.0, 2.0, 3.0, 1.0],
            "diversity": [3, 2, 2, np.nan],
        }
    )
    assert front(points, "gain", "kl", smaller=True) == ["a", "b"]
    assert front(points, "gain", "diversity", smaller=False) == ["a", "b", "c"]


def test_the_figure_has_a_panel_for_what_was_recorded(folder: Path) -> None:
    drawn = tradeoffs_figure(load_run(folder))
    assert drawn is not None
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert titles[-2:] == ["reward and diversity", "reward and distance"]
