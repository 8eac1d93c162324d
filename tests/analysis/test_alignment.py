"""Endings and pairs against their own computation, and how far comparisons are corrected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.alignment import Alignment, alignment, prompt_means, share_interval, wins
from analysis.records import Records, load_run
from analysis.tables.alignment import (
    alignment_frame,
    pairs_frame,
    pairs_table,
    summaries_table,
)
from tests.analysis.synthetic import Plan, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Records:
    plan = Plan(seeds=6, rewards=("accuracy", "diversity", "caption_match"), with_samples=False, prompts=5)
    return load_run(write_run(tmp_path_factory.mktemp("aligned"), plan))


@pytest.fixture(scope="module")
def found(run: Records) -> Alignment:
    return alignment(run)


def _values(run: Records, method: str, reward: str, split: str = "held_out") -> pd.DataFrame:
    """(seeds, prompts) of a method's last evaluation, straight from the records."""
    records = run.evaluations
    chosen = (records["method"] == method) & (records["reward"] == reward) & (records["split"] == split)
    part = records[chosen & (records["iteration"] == (0 if method == "base" else 30))]
    return part.astype({"prompt": str}).pivot_table(
        index="seed", columns="prompt", values="value", aggfunc="mean"
    )


def test_an_ending_is_what_the_records_say(run: Records, found: Alignment) -> None:
    entry = next(
        e for e in found.endings if (e.split, e.method, e.reward) == ("held_out", "euphonium", "accuracy")
    )
    values, base = _values(run, "euphonium", "accuracy"), _values(run, "base", "accuracy")
    gains = values.to_numpy() - base.to_numpy()
    assert (entry.base, entry.final) == pytest.approx((base.to_numpy().mean(), values.to_numpy().mean()))
    expected = stats.ttest_1samp(gains.mean(axis=1), 0).confidence_interval(0.95)
    assert (entry.mean.low, entry.mean.high) == pytest.approx((expected.low, expected.high))
    assert entry.robust.mean == pytest.approx(stats.trim_mean(gains.ravel(), 0.25))
    assert not entry.robust.known  # of six seeds
    assert entry.prompts_won.mean == pytest.approx((gains > 0).mean())


@pytest.mark.parametrize(("split", "reward"), [("held_out", "accuracy"), ("train", "caption_match")])
def test_pairs_are_those_of_games_and_howell(run: Records, found: Alignment, split: str, reward: str) -> None:
    pairs = [pair for pair in found.pairs if (pair.split, pair.reward) == (split, reward)]
    assert len(pairs) == 3
    seeds = {name: _values(run, name, reward, split).mean(axis=1).to_numpy() for name in run.methods}
    names = list(seeds)
    expected = stats.tukey_hsd(*seeds.values(), equal_var=False)
    limits = expected.confidence_interval(0.95)  # exact, and slow
    for pair in pairs:
        one, other = names.index(pair.difference.first), names.index(pair.difference.second)
        first, second = seeds[names[one]], seeds[names[other]]
        assert first.mean() >= second.mean()
        assert pair.difference.p == pytest.approx(expected.pvalue[one, other], rel=0.05, abs=2e-3)
        assert pair.difference.interval.low == pytest.approx(limits.low[one, other], rel=0.02, abs=1e-4)
        assert pair.difference.interval.high == pytest.approx(limits.high[one, other], rel=0.02, abs=1e-4)
        assert pair.improvement == pytest.approx(
            np.mean([[(a > b) + 0.5 * (a == b) for b in second] for a in first])
        )


def test_ten_seeds_are_enough_for_a_bootstrap(tmp_path: Path) -> None:
    plan = Plan(methods=("one",), seeds=10, rewards=("accuracy",), with_samples=False)
    run = load_run(write_run(tmp_path, plan))
    for entry in alignment(run).endings:
        assert entry.robust.low < entry.robust.mean < entry.robust.high
        # It resamples whole seeds: about as wide as Student's, not a part of it.
        assert 0.3 < entry.robust.half_width / entry.mean.half_width < 1.5


def test_prompts_are_won_where_the_mean_is_higher() -> None:
    assert wins([[1.0, 2.0, 3.0, 0.0]], [[0.0, 2.0, 4.0, 1.0]]).tolist() == [0.375]
    interval = share_interval([0.9, 1.0, 1.0])
    assert (interval.high, interval.mean) == (1.0, pytest.approx(2.9 / 3))


def test_only_the_last_evaluation_of_seeds_that_count(broken_run: Path) -> None:
    means = prompt_means(load_run(broken_run))
    seeds = means.groupby("method")["seed"].unique().map(sorted).to_dict()
    assert seeds == {"base": [0], "euphonium": [0, 1, 2], "flow_grpo": [0, 2], "dance_grpo": [0, 1]}
    assert len(means) == (1 + 7) * 2 * 7 * 4


def test_a_seed_with_a_missing_value_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Plan(methods=("one",), rewards=("accuracy",), with_samples=False))
    file = folder / "records" / "evaluations.parquet"
    frame = pd.read_parquet(file)
    last = frame[(frame["seed"] == 1) & (frame["iteration"] == 30) & (frame["split"] == "train")]
    frame.loc[last.index[0], "value"] = np.nan
    frame.to_parquet(file, index=False)
    seeds = {entry.split: entry.mean.n for entry in alignment(load_run(folder)).endings}
    assert seeds == {"held_out": 3, "train": 2}


def test_tables_say_how_pairs_were_compared(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, Plan(rewards=("accuracy", "caption_match"), with_samples=False)))
    found = alignment(run)
    table = summaries_table(found, run, "held_out")
    assert table.title == "Accuracy on held-out prompts, in several summaries"
    assert all("\n" not in row[2] for row in table.rows)  # three seeds: no bootstrap
    assert "with a bootstrap from 10 seeds on" in table.note
    pairs = pairs_table(found, run, "held_out", "accuracy")
    assert "hold together for all 3 pairs of the table" in pairs.note
    assert {row[-1] for row in pairs.rows} <= {"yes", "not shown"}


def test_frames_are_tidy(run: Records, found: Alignment) -> None:
    endings, pairs = alignment_frame(found, run), pairs_frame(found)
    assert len(endings) == 2 * 3 * 3
    assert len(pairs) == 2 * 3 * 3
    entry, row = found.endings[0], endings.iloc[0]
    assert (row["gain"], row["gain_low"], row["iqm"]) == (entry.mean.mean, entry.mean.low, entry.robust.mean)
    assert {"difference_low", "p", "improvement", "prompts_won_high", "seeds_first"} <= set(pairs)


def test_equal_records_give_equal_intervals(run: Records, found: Alignment) -> None:
    assert alignment(run) == found


def test_a_pair_with_one_seed_has_no_interval(tmp_path: Path) -> None:
    plan = Plan(methods=("one", "two"), seeds=3, with_samples=False, failed={("two", 1): 0, ("two", 2): 0})
    for pair in alignment(load_run(write_run(tmp_path, plan))).pairs:
        assert pair.difference.seeds in ((3, 1), (1, 3))
        assert not pair.difference.interval.known
