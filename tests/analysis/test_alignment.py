"""Endings and pairs against their own computation, and how far comparisons are corrected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.alignment import Alignment, alignment, prompt_means, share_interval, wins
from analysis.alignment.__main__ import main
from analysis.records import Records, load_run
from analysis.tables.alignment import folded, pairs_table, summaries_table, wins_table
from analysis.tables.text_table import TextTable
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
    assert entry.robust.value == pytest.approx(stats.trim_mean(gains.ravel(), 0.25))
    assert entry.robust.low < entry.robust.value < entry.robust.high
    assert entry.prompts_won.mean == pytest.approx((gains > 0).mean())
    assert entry.any_prompts.high - entry.any_prompts.low > 0


def test_pairs_on_the_headline_decide_as_their_widened_interval(run: Records, found: Alignment) -> None:
    pairs = [pair for pair in found.pairs if pair.split == "held_out" and pair.reward == "accuracy"]
    assert len(pairs) == 3
    for pair in pairs:
        one, other = (
            _values(run, name, "accuracy").mean(axis=1)
            for name in (pair.difference.first, pair.difference.second)
        )
        assert one.mean() >= other.mean()
        assert pair.adjusted == pytest.approx(min(1, 3 * stats.ttest_ind(one, other, equal_var=False).pvalue))
        assert pair.distinct == pair.difference.distinct
        expected = np.mean([[(a > b) + 0.5 * (a == b) for b in other] for a in one])
        assert pair.improvement.value == pytest.approx(expected)
        assert pair.any_prompts is not None


def test_pairs_on_other_rewards_are_adjusted_together(run: Records, found: Alignment) -> None:
    pairs = [pair for pair in found.pairs if pair.split == "train" and pair.reward != "accuracy"]
    raw = []
    for pair in pairs:
        groups = [
            _values(run, name, pair.reward, "train").mean(axis=1)
            for name in (pair.difference.first, pair.difference.second)
        ]
        raw.append(stats.ttest_ind(*groups, equal_var=False).pvalue)
        assert pair.difference.interval.confidence == 0.95
    order = np.argsort(raw)
    holm = np.minimum(1, np.maximum.accumulate(np.sort(raw) * np.arange(len(raw), 0, -1)))
    assert [pairs[k].adjusted for k in order] == pytest.approx(holm.tolist())
    assert all(pair.any_prompts is None for pair in pairs)


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


def test_few_seeds_are_marked(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, Plan(rewards=("accuracy", "caption_match"), with_samples=False)))
    found = alignment(run)
    table = summaries_table(found, run, "held_out")
    assert all("†" in row[2] for row in table.rows)
    assert "† A bootstrap over 3 seeds is too narrow" in table.note
    pairs = pairs_table(found, run, "held_out", ["accuracy"])
    assert "widened so that all 3 pairs hold together" in pairs.note
    assert "†" in pairs.note
    assert wins_table(found, run, "held_out").columns == ("method", "accuracy", "caption match*")


def test_equal_records_give_equal_intervals(run: Records, found: Alignment) -> None:
    assert alignment(run) == found


def test_many_pairs_are_folded_behind_those_with_the_best() -> None:
    names = [(f"m{a} − m{b}", "") for a in range(6) for b in range(a + 1, 6)]
    shown, rest = folded(TextTable("Methods in pairs: x", ("pair", ""), tuple(names), "n"))
    assert [row[0] for row in shown.rows] == [f"m0 − m{b}" for b in range(1, 6)]
    assert len(rest.rows) == 10
    assert folded(shown) == [shown]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(seeds=2, methods=("flow_grpo", "dance_grpo"), rewards=("accuracy",), with_samples=False)
    folder = write_run(tmp_path, plan)
    assert main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert "Final rewards on held-out prompts" in told
    assert "Methods in pairs: accuracy on training prompts" in told
    assert {"final.csv", "final.md", "alignment.csv", "pairs.csv", "pairs.md"} <= {
        file.name for file in (folder / "tables").iterdir()
    }
    assert (folder / "figures" / "gains.png").is_file()
