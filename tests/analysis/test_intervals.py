"""Intervals against scipy's and against what they promise: 95 % hold the truth, 5 % or fewer are false alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    Interval,
    half_width,
    mean_interval,
    paired_gain,
    pairwise_differences,
    welch_difference,
)

REPETITIONS = 1500
TOLERANCE = 4 * math.sqrt(
    0.05 * 0.95 / REPETITIONS
)  # four standard errors: a right interval fails one in 10^4


@pytest.mark.parametrize("n", [3, 5, 10])
def test_mean_interval_covers_the_truth_in_95_percent(n: int) -> None:
    draws = np.random.default_rng(n).normal(0.7, 0.05, (REPETITIONS, n))
    intervals = [mean_interval(draw) for draw in draws]
    covered = np.mean([interval.low <= 0.7 <= interval.high for interval in intervals])
    assert abs(covered - 0.95) < TOLERANCE


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_copies_of_one_method_rarely_differ_by_welchs_interval(n: int, spread: float) -> None:
    rng = np.random.default_rng([n, round(10 * spread)])
    first, second = rng.normal(size=(2, 400, n)) * np.array([1.0, spread])[:, None, None]
    alarms = [welch_difference(*pair).excludes_zero for pair in zip(first, second, strict=True)]
    assert np.mean(alarms) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("n", [3, 8])
def test_all_pairs_of_equal_methods_raise_one_family_of_alarms(n: int) -> None:
    rng = np.random.default_rng(7)
    spreads = {"a": 0.02, "b": 0.05, "c": 0.1}
    alarms = [
        any(
            entry.distinct
            for entry in pairwise_differences({m: rng.normal(0.7, s, n) for m, s in spreads.items()})
        )
        for _ in range(60)
    ]
    assert np.mean(alarms) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 60)


def test_pairs_are_games_and_howells() -> None:
    """scipy's Tukey test with unequal variances, of methods with unequal numbers of seeds."""
    rng = np.random.default_rng(0)
    groups = {
        "a": rng.normal(1.0, 0.2, 5),
        "b": rng.normal(0.5, 0.4, 3),
        "c": rng.normal(0.6, 0.1, 10),
        "d": rng.normal(0.6, 0.1, 7),
    }
    expected = stats.tukey_hsd(*groups.values(), equal_var=False)
    limits = expected.confidence_interval()
    means: np.ndarray = np.asarray(expected.statistic)
    widths: np.ndarray = (np.asarray(limits.high) - np.asarray(limits.low)) / 2
    names = list(groups)
    pairs = pairwise_differences(groups)
    assert [(entry.first, entry.second) for entry in pairs] == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
        ("c", "d"),
    ]
    for entry in pairs:
        place = names.index(entry.first), names.index(entry.second)
        assert entry.interval.mean == pytest.approx(means[place])
        assert entry.interval.half_width == pytest.approx(widths[place], rel=5e-3)
        # The approximation gives up below 0.1 % and above 90 %.
        p = float(np.clip(expected.pvalue[place], 0.001, 0.9))
        assert entry.p == pytest.approx(p, abs=0.01)
        assert entry.seeds == (len(groups[entry.first]), len(groups[entry.second]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.tuples(st.integers(2, 12), st.integers(2, 12)))
def test_two_methods_are_compared_by_welchs_test(seed: int, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(0.7, 0.3, sizes[0]), rng.normal(0.5, 0.1, sizes[1])
    welch = welch_difference(one, other)
    test = stats.ttest_ind(one, other, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert (welch.low, welch.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    (pair,) = pairwise_differences({"one": one, "other": other})
    assert (pair.interval.low, pair.interval.high) == pytest.approx((welch.low, welch.high), rel=1e-9)
    assert pair.p == pytest.approx(test.pvalue)
    assert pair.distinct == (pair.p < 0.05)


def test_two_seeds_of_unequal_spread_have_a_p_value() -> None:
    """Fewer than two degrees of freedom: none that the quick approximation knows."""
    groups = {"a": [0.7, 0.71], "b": [0.4, 0.9], "c": [0.60, 0.601]}
    expected = stats.tukey_hsd(*groups.values(), equal_var=False).pvalue[np.triu_indices(3, 1)]
    found = [entry.p for entry in pairwise_differences(groups)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert not any(entry.distinct for entry in pairwise_differences(groups, 0.9995)[:1])


def test_more_methods_need_wider_intervals() -> None:
    groups = {"a": [1.0, 1.1, 1.2], "b": [0.5, 0.6, 0.8], "c": [0.1, 0.2, 0.4]}
    pairs = pairwise_differences(groups)
    assert pairs[0].interval.confidence == 0.95
    assert pairs[0].interval.half_width > welch_difference(groups["a"], groups["b"]).half_width
    assert pairwise_differences(groups, 0.99)[0].interval.half_width > pairs[0].interval.half_width
    assert pairwise_differences({"a": [1.0, 2.0]}) == []


def test_mean_interval_is_scipys() -> None:
    values = np.array([0.71, 0.74, 0.69, 0.78])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    ours = mean_interval(values, 0.9)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert ours.excludes_zero


def test_one_seed_has_a_mean_and_no_interval() -> None:
    interval = mean_interval([0.7])
    assert (interval.mean, interval.n) == (0.7, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.known
    assert not interval.alike
    assert not interval.excludes_zero
    assert not welch_difference([0.7], [0.2, 0.3]).known
    (pair,) = pairwise_differences({"a": [0.7], "b": [0.2, 0.3]})
    assert pair.interval.mean == pytest.approx(0.45)
    assert (pair.interval.known, pair.distinct, pair.seeds) == (False, False, (1, 2))
    assert math.isnan(pair.p)


def test_no_seed_has_neither() -> None:
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([]).n == 0
    assert welch_difference([], [1.0, 2.0]).n == 0


def test_a_missing_value_is_not_dropped() -> None:
    interval = mean_interval([0.7, math.nan, 0.8])
    assert math.isnan(interval.mean)
    assert not interval.known
    assert not interval.alike
    pairs = pairwise_differences({"a": [0.7, math.nan, 0.8], "b": [0.1, 0.2, 0.3], "c": [0.7, 0.8, 0.9]})
    assert [entry.interval.known for entry in pairs] == [False, False, True]
    assert math.isnan(pairs[0].interval.mean)


def test_seeds_that_agree_are_alike_and_give_no_interval() -> None:
    """However exact the agreement looks: sums of single-precision rewards differ in what lies below it."""
    for values in ([0.1, 0.1, 0.1], [0.7, 0.7 + 1e-9]):
        assert mean_interval(values).alike
        assert not mean_interval(values).excludes_zero
    for pair in (([1.0, 1.0], [0.0, 0.0]), ([1.0, 1.0], [1.0, 1.0])):
        assert welch_difference(*pair).alike
        assert not welch_difference(*pair).excludes_zero
        assert not pairwise_differences(dict(zip("ab", pair, strict=True)))[0].distinct
    assert paired_gain(
        [0.7, 0.7 + 1e-9], 0.7
    ).alike  # of the size of what was subtracted, not of what is left
    assert welch_difference([0.5, 0.5], [0.1, 0.3]).known  # one of the two shows a spread


def test_gain_over_a_shared_base_and_over_own_bases() -> None:
    shared = paired_gain([0.7, 0.8], 0.6)
    assert shared.mean == pytest.approx(0.15)
    expected = stats.ttest_1samp([0.1, 0.2], 0).confidence_interval(0.95)
    assert (shared.low, shared.high) == pytest.approx((expected.low, expected.high))
    own = paired_gain([0.7, 0.8], [0.6, 0.7])
    assert own.mean == pytest.approx(0.1)
    assert own.alike
    with pytest.raises(ValueError, match="one value or one per seed"):
        paired_gain([0.7, 0.8], [0.6, 0.7, 0.8])


def test_half_width_is_vectorised_and_agrees() -> None:
    values = np.array([[0.1, 0.4, 0.2], [0.3, 0.3, 0.9]])
    widths = half_width(values.std(axis=1, ddof=1), np.array([3, 3]))
    assert widths == pytest.approx([mean_interval(row).half_width for row in values])
    assert np.isnan(half_width([0.1, np.nan], [1, 0])).all()


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_must_be_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence)
    with pytest.raises(ValueError, match="confidence"):
        pairwise_differences({"a": [1.0, 2.0], "b": [1.0, 3.0]}, confidence)


def test_shape_is_checked() -> None:
    with pytest.raises(ValueError, match="one axis"):
        mean_interval([[1.0, 2.0]])


def test_interval_excludes_zero_only_on_one_side() -> None:
    assert Interval(1.0, 0.5, 1.5, 3).excludes_zero
    assert Interval(-1.0, -1.5, -0.5, 3).excludes_zero
    assert not Interval(0.1, -0.5, 0.7, 3).excludes_zero
