"""Convergence: known speed-ups and targets; what is refused and what is left open."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.convergence import SPANS, UNDECIDED, WHOLE, check_baseline, convergence, curve_arrays
from analysis.curves import counted_curves, over_cost
from analysis.records import RecordError, load_run
from analysis.schema import default_baseline
from analysis.tables.convergence import speed_frame, speed_tables
from tests.analysis.synthetic import Plan, tflops, write_run

HEADLINE = ("accuracy",)


def _straight(folder: Path, slopes: dict[str, float], seeds: int = 4, noise: float = 1e-4) -> Path:
    """Curves that rise from 0.5 by a slope per iteration, evaluated at 0, 5, ..., 30."""
    plan = Plan(methods=tuple(slopes), seeds=seeds, rewards=HEADLINE, with_samples=False)
    write_run(folder, plan)
    rng = np.random.default_rng(5)
    rows: list[tuple[str, int, int, float]] = [("base", 0, 0, 0.5)]
    for method, slope in slopes.items():
        for seed in range(seeds):
            rows += [(method, seed, at, 0.5 + slope * at + rng.normal(0, noise)) for at in range(5, 31, 5)]
    frame = pd.DataFrame(rows, columns=["method", "seed", "iteration", "value"])
    frame = frame.assign(split="held_out", prompt="a ball", sample=0, reward="accuracy")
    frame.to_parquet(folder / "records" / "evaluations.parquet", index=False)
    return folder


def test_a_known_speed_up_is_found_in_every_unit(tmp_path: Path) -> None:
    """A slope 1.5 times as steep is 1.5 times faster in iterations, and in TFLOP by the ratio of their prices."""
    run = load_run(_straight(tmp_path, {"euphonium": 0.006, "dance_grpo": 0.004}))
    found = convergence(run)
    assert found.baseline == "dance_grpo"
    assert found.units == ("iterations", "videos", "nfe", "tflops", "seconds")
    price = sum(tflops("dance_grpo").values()) / sum(tflops("euphonium").values())
    for span in SPANS:
        for unit, expected in (("iterations", 1.5), ("videos", 1.5), ("nfe", 1.5), ("tflops", 1.5 * price)):
            entry = found.speed("euphonium", unit, span)
            assert entry is not None
            assert entry.ratio.value == pytest.approx(expected, rel=0.01)
            assert entry.ratio.low < expected < entry.ratio.high
            assert entry.cost * entry.ratio.value == pytest.approx(entry.baseline_cost)
            assert entry.ratio.seeds == 4
    assert found.speed("euphonium", "iterations").verdict == "faster"  # type: ignore[union-attr]
    assert found.speed("nobody", "iterations") is None


def test_targets_are_shares_of_the_baselines_own_gain(tmp_path: Path) -> None:
    run = load_run(_straight(tmp_path, {"other": 0.0025, "flow_grpo": 0.004}))
    found = convergence(run)
    assert found.baseline == "flow_grpo"
    assert (found.start, found.end) == pytest.approx((0.5, 0.62), abs=1e-3)
    assert [found.reward_at(share) for share in SPANS[WHOLE]] == pytest.approx([0.53, 0.602], abs=1e-3)
    half, late, whole = (
        found.speed("other", "iterations", span) for span in ("around 50 %", "around 75 %", WHOLE)
    )
    assert half is not None
    assert late is not None
    assert whole is not None
    assert half.ratio.value == pytest.approx(0.0025 / 0.004, rel=0.01)
    # 0.5 + 30 * 0.0025 = 0.575 is less than 85 % of the gain: only an upper limit is left.
    for entry in (late, whole):
        assert (entry.ratio.value, entry.ratio.low, math.isinf(entry.cost)) == (0, 0, True)
        assert entry.verdict == "slower"
        assert "does not get through" in entry.ratio.why
    text = " ".join(" ".join(row) for table in speed_tables(found) for row in table.rows)
    assert "not reached\n" in text
    assert "never vs " in text
    assert "Not reached: " in speed_tables(found)[0].note


def test_the_primary_estimate_is_widened_for_methods_and_the_others_for_all_ranges(tmp_path: Path) -> None:
    slopes = {"a": 0.005, "b": 0.005, "dance_grpo": 0.004}
    alone = {name: slopes[name] for name in ("a", "dance_grpo")}
    together = convergence(load_run(_straight(tmp_path / "two", slopes)))
    single = convergence(load_run(_straight(tmp_path / "one", alone)))

    def width(found, span: str) -> float:
        ratio = found.speed("a", "iterations", span).ratio
        return ratio.high / ratio.low

    assert width(together, WHOLE) > width(single, WHOLE)
    assert "all 2 methods, and for the secondary ranges all 4" in speed_tables(together)[0].note
    assert "widened" not in speed_tables(single)[0].note


def test_a_cost_before_training_delays_the_whole_curve() -> None:
    frame = pd.DataFrame(
        {
            "seed": [0, 0, 1, 1],
            "iteration": [0, 10, 0, 10],
            "value": [0.5, 0.7, 0.5, 0.6],
            "tflops": [2.0, 5.0, 2.0, 5.0],
        }
    )
    found = curve_arrays(frame, "tflops")
    assert found is not None
    assert found.cost.tolist() == [[0, 2, 5], [0, 2, 5]]
    assert found.values.tolist() == [[0.5, 0.5, 0.7], [0.5, 0.5, 0.6]]
    assert curve_arrays(frame.iloc[[0, 2]], "tflops") is None


def test_seeds_evaluated_alike_get_their_mean_seconds() -> None:
    frame = pd.DataFrame(
        {
            "method": "m",
            "seed": [0, 0, 0, 1, 1, 1],
            "iteration": [0, 5, 10] * 2,
            "value": [0.5, 0.6, 0.7, 0.5, 0.5, 0.8],
            "seconds": [0.0, 4.0, 10.0, 0.0, 6.0, 14.0],
        }
    )
    found = curve_arrays(frame, "seconds")
    assert found is not None
    assert found.cost.tolist() == [[0, 5, 12]] * 2
    band = over_cost(frame, "seconds", ["method"])
    assert band["seconds"].tolist() == [0, 5, 12]
    assert band["mean"].tolist() == pytest.approx([0.5, 0.55, 0.75])
    assert band[["least", "most"]].iloc[-1].tolist() == [0.7, 0.8]


def test_seeds_evaluated_otherwise_are_interpolated_where_all_have_been() -> None:
    frame = pd.DataFrame(
        {
            "method": "m",
            "seed": [0, 0, 1, 1, 1],
            "iteration": [0, 10, 0, 10, 11],
            "value": [0.0, 1.0, 0.0, 2.0, 3.0],
            "seconds": [0.0, 10.0, 0.0, 10.0, 20.0],
        }
    )
    band = over_cost(frame, "seconds", ["method"], points=3)
    assert band["seconds"].tolist() == [0, 5, 10]
    assert band["mean"].tolist() == pytest.approx([0, 0.75, 1.5])
    found = curve_arrays(frame, "seconds")
    assert found is not None
    assert found.cost.tolist() == [[0, 10, 10], [0, 10, 20]]


def test_which_baseline(whole_run: Path) -> None:
    assert default_baseline(["a", "dance_grpo", "flow_grpo"]) == "flow_grpo"
    assert default_baseline(["a", "dance_grpo"]) == "dance_grpo"
    assert default_baseline(["a", "b"]) == "a"
    run = load_run(whole_run)
    assert check_baseline(run, None) == "flow_grpo"
    assert check_baseline(run, "euphonium") == "euphonium"
    with pytest.raises(RecordError, match=r"baseline is 'dance_gpo'.*did you mean 'dance_grpo'\?"):
        check_baseline(run, "dance_gpo")
    with pytest.raises(RecordError, match="there are dance_grpo, euphonium, flow_grpo"):
        check_baseline(run, "xyz")


def test_a_baseline_that_is_not_shown_to_gain_sets_no_target(tmp_path: Path) -> None:
    found = convergence(load_run(_straight(tmp_path / "lost", {"a": 0.004, "dance_grpo": -0.001})))
    assert found.speeds == ()
    assert "dance_grpo is not shown to gain in accuracy (−0.0" in found.why_not
    noisy = _straight(tmp_path / "noisy", {"a": 0.004, "dance_grpo": 0.0001}, noise=0.05)
    assert "is not shown to gain" in convergence(load_run(noisy)).why_not
    alike = convergence(load_run(_straight(tmp_path / "alike", {"a": 0.006, "dance_grpo": 0.004}, noise=0)))
    assert alike.why_not == ""
    entry = alike.speed("a", "iterations")
    assert entry is not None
    assert (entry.ratio.known, entry.verdict) == (False, UNDECIDED)
    assert entry.ratio.value == pytest.approx(1.5)


def test_a_baseline_that_lost_its_gain_is_a_low_target(tmp_path: Path, whole_run: Path) -> None:
    plan = Plan(seeds=2, overdone=2.0, samples=20, spread=0.001, rewards=HEADLINE, with_samples=False)
    run = load_run(write_run(tmp_path, plan))
    found = convergence(run, "flow_grpo")
    means = counted_curves(run)
    own = means[(means["method"] == "flow_grpo") & (means["split"] == "held_out")]
    assert found.peak == pytest.approx(own.groupby("iteration")["value"].mean().max())
    assert found.fell
    assert not convergence(load_run(whole_run)).fell


def test_failed_seeds_take_no_part(broken_run: Path) -> None:
    run = load_run(broken_run)
    entry = convergence(run).speed("dance_grpo", "iterations", "around 50 %")
    assert entry is not None
    assert entry.ratio.seeds == 2
    assert set(counted_curves(run)["method"]) == set(run.methods)


def test_tables_hold_what_was_found(whole_run: Path) -> None:
    found = convergence(load_run(whole_run))
    frame = speed_frame(found)
    promised = (
        "method baseline unit span share_low share_high cost baseline_cost speed_up low high confidence"
    )
    assert {*promised.split(), "seeds", "verdict", "why"} == set(frame)
    assert len(frame) == 2 * 5 * 3
    own = frame.set_index(["method", "unit", "span"]).loc[("euphonium", "tflops", WHOLE)]
    entry = found.speed("euphonium", "tflops")
    assert entry is not None
    assert (own["speed_up"], own["low"], own["share_high"]) == (entry.ratio.value, entry.ratio.low, 0.85)
    first, *others = speed_tables(found)
    assert first.title == "Speed-up over flow_grpo in iterations"
    assert [row[0] for row in first.rows] == ["euphonium", "dance_grpo"]
    assert first.columns[-1] == "whole curve"
    assert {row[-1] for row in first.rows} <= {"faster", "slower", UNDECIDED}
    assert [len(table.rows) for table in others] == [2] * 4
