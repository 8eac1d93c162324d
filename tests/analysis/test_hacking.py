"""Proxy gaps, peaks and distances against what synthetic records were made to hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.curves import seed_means
from analysis.hacking import (
    courses,
    hacking_table,
    kl_frame,
    proxy_frame,
)
from analysis.records import Records, load_run
from tests.analysis.synthetic import Plan, write_run


@pytest.fixture(scope="module")
def overdone(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The headline loses more than it had gained, the rewards trained on keep rising."""
    plan = Plan(overdone=2.5, samples=40, spread=0.001, with_samples=False)
    return load_run(write_run(tmp_path_factory.mktemp("overdone"), plan))


def test_a_headline_that_falls_has_peaked_and_lost(overdone: Records) -> None:
    found = {entry.method: entry for entry in courses(overdone)}
    entry = found["euphonium"]
    means = seed_means(overdone)
    chosen = (
        (means["method"] == "euphonium") & (means["split"] == "held_out") & (means["reward"] == "accuracy")
    )
    curves = means[chosen].pivot(index="seed", columns="iteration", values="value")
    peaks = sorted(curves.idxmax(axis=1))
    assert [entry.first_peak, entry.median_peak, entry.last_peak] == peaks
    assert entry.last_peak < 30
    assert entry.early == 3
    assert entry.lost.mean == pytest.approx((curves.max(axis=1) - curves[30]).mean())
    assert entry.lost.excludes_zero
    assert entry.gap.mean > 0
    frame, table = hacking_table(overdone, list(found.values()))
    assert "3 of 3" in table.rows[0]
    assert "walked" not in table.note
    assert frame.set_index("method")["lost"]["euphonium"] > 0.05


def test_the_gap_counts_in_standard_deviations_of_the_base(overdone: Records) -> None:
    """Weights 1 and 0.5: the proxy is two parts of caption match and one of motion quality."""
    row = proxy_frame(overdone).set_index(["method", "seed", "iteration"]).loc[("flow_grpo", 1, 20)]
    records = overdone.evaluations

    def standard(reward: str, split: str) -> float:
        here = (records["reward"] == reward) & (records["split"] == split)
        base = records[here & (records["method"] == "base")]["value"]
        own = (
            here & (records["method"] == "flow_grpo") & (records["seed"] == 1) & (records["iteration"] == 20)
        )
        return float((records[own]["value"].mean() - base.mean()) / base.std(ddof=1))

    training = (2 * standard("caption_match", "train") + standard("motion_quality", "train")) / 3
    headline = standard("accuracy", "held_out")
    assert (row["training"], row["headline"]) == pytest.approx((training, headline))
    assert row["gap"] == pytest.approx(training - headline)


def test_no_reward_spread_and_no_split_give_no_gap(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Plan(rewards=("accuracy", "caption_match"), with_samples=False))
    file = folder / "records" / "evaluations.parquet"
    frame = pd.read_parquet(file)
    frame[frame["split"] == "held_out"].to_parquet(file, index=False)
    run = load_run(folder)
    proxy = proxy_frame(run)
    assert proxy["gap"].isna().all()
    assert proxy["headline"].notna().all()


def test_distance_starts_at_nothing(whole_run: Path) -> None:
    run = load_run(whole_run)
    distance = kl_frame(run)
    assert (distance.loc[distance["iteration"] == 0, "value"] == 0).all()
    assert len(distance) == 9 * 7
    found = {entry.method: entry for entry in courses(run)}
    recorded = distance[(distance["method"] == "flow_grpo") & (distance["iteration"] == 30)]["value"]
    assert found["flow_grpo"].kl.mean == pytest.approx(recorded.mean())


def test_old_records_have_no_distance(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, Plan(diagnostics=False, rewards=("accuracy", "caption_match"))))
    assert not len(kl_frame(run))
    _, table = hacking_table(run, courses(run))
    assert "KL to base at the end" not in table.columns
    assert "KL: nats per video" not in table.note


def test_unfinished_seeds_are_left_out(broken_run: Path) -> None:
    run = load_run(broken_run)
    assert {entry.method: entry.seeds for entry in courses(run)} == {
        "euphonium": 3,
        "flow_grpo": 2,
        "dance_grpo": 2,
    }
    assert np.isfinite(proxy_frame(run)["gap"]).all()
