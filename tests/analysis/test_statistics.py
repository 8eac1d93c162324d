"""Intervals against what they promise, by simulation: coverage near 95 %, false alarms near or below 5 %."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import (
    Interval,
    half_width,
    mean_interval,
    paired_difference,
    paired_gain,
    pairwise_differences,
    welch_difference,
)

REPETITIONS = 2000
TOLERANCE = 4 * math.sqrt(
    0.05 * 0.95 / REPETITIONS
)  # four standard errors: a right interval fails one in 10^4


@pytest.mark.parametrize("n", [3, 5, 10])
def test_mean_interval_covers_the_truth_in_95_percent(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = rng.normal(0.7, 0.05, (REPETITIONS, n))
    intervals = [mean_interval(draw) for draw in draws]
    covered = np.mean([interval.low <= 0.7 <= interval.high for interval in intervals])
    assert abs(covered - 0.95) < TOLERANCE


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_copies_of_one_method_are_rarely_told_apart(n: int, shared: float) -> None:
    """Welch is exact or careful for independent or agreeing seeds, the paired interval exact for both."""
    rng = np.random.default_rng([n, round(10 * shared)])
    common = math.sqrt(shared) * rng.normal(size=(REPETITIONS, n))
    first, second = common + math.sqrt(1 - shared) * rng.normal(size=(2, REPETITIONS, n))
    pairs = list(zip(first, second, strict=True))
    welch = np.mean([welch_difference(*pair).excludes_zero for pair in pairs])
    paired = np.mean([paired_difference(*pair).excludes_zero for pair in pairs])
    assert welch < 0.05 + TOLERANCE
    assert abs(paired - 0.05) < TOLERANCE


@pytest.mark.parametrize("n", [3, 5])
def test_all_pairs_of_equal_methods_raise_one_family_of_alarms(n: int) -> None:
    rng = np.random.default_rng(7)
    alarms = []
    for _ in range(600):
        groups = {
            name: rng.normal(0.7, spread, n) for name, spread in {"a": 0.02, "b": 0.05, "c": 0.1}.items()
        }
        alarms.append(any(entry.distinct for entry in pairwise_differences(groups)))
    assert np.mean(alarms) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 600)


def test_a_difference_that_is_there_is_found_with_enough_seeds() -> None:
    rng = np.random.default_rng(1)
    found = [welch_difference(rng.normal(1, 1, 30), rng.normal(0, 1, 30)).excludes_zero for _ in range(200)]
    assert np.mean(found) > 0.9


def test_intervals_equal_scipy() -> None:
    values = np.array([0.71, 0.74, 0.69, 0.78])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    ours = mean_interval(values, 0.9)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    other = np.array([0.6, 0.66, 0.61])
    welch = stats.ttest_ind(values, other, equal_var=False).confidence_interval(0.95)
    ours = welch_difference(values, other)
    assert (ours.low, ours.high) == pytest.approx((welch.low, welch.high), rel=1e-12)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    interval = mean_interval([0.7])
    assert (interval.mean, interval.n) == (0.7, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.known
    assert not interval.excludes_zero
    assert not welch_difference([0.7], [0.2, 0.3]).known


def test_no_seed_has_neither() -> None:
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([]).n == 0
    assert welch_difference([], [1.0, 2.0]).n == 0


def test_a_missing_value_is_not_dropped() -> None:
    interval = mean_interval([0.7, math.nan, 0.8])
    assert math.isnan(interval.mean)
    assert not interval.excludes_zero


def test_no_spread_is_not_taken_for_certainty() -> None:
    assert not mean_interval([0.1, 0.1, 0.1]).excludes_zero
    assert not welch_difference([1.0, 1.0], [0.0, 0.0]).excludes_zero
    assert not welch_difference([1.0, 1.0], [1.0, 1.0]).excludes_zero


def test_gain_over_a_shared_base_and_over_own_bases() -> None:
    shared = paired_gain([0.7, 0.8], 0.6)
    assert shared.mean == pytest.approx(0.15)
    own = paired_gain([0.7, 0.8], [0.6, 0.7])
    assert (own.mean, own.low) == pytest.approx((0.1, 0.1))
    with pytest.raises(ValueError, match="one value or one per seed"):
        paired_gain([0.7, 0.8], [0.6, 0.7, 0.8])


def test_half_width_is_vectorised_and_agrees() -> None:
    values = np.array([[0.1, 0.4, 0.2], [0.3, 0.3, 0.9]])
    widths = half_width(values.std(axis=1, ddof=1), np.array([3, 3]))
    assert widths == pytest.approx([mean_interval(row).half_width for row in values])
    assert np.isnan(half_width([0.1, np.nan], [1, 0])).all()


def test_pairs_are_named_and_widened() -> None:
    groups = {"a": [1.0, 1.1, 1.2], "b": [0.5, 0.6, 0.8], "c": [0.1, 0.2, 0.4]}
    pairs = pairwise_differences(groups)
    assert [(entry.first, entry.second) for entry in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs[0].interval.confidence == pytest.approx(1 - 0.05 / 3)
    assert pairs[0].interval.half_width > welch_difference(groups["a"], groups["b"]).half_width
    assert pairwise_differences({"a": [1.0, 2.0]}) == []


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_must_be_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence)


def test_shape_is_checked() -> None:
    with pytest.raises(ValueError, match="one axis"):
        mean_interval([[1.0, 2.0]])
    with pytest.raises(ValueError, match="same seeds"):
        paired_difference([1.0, 2.0], [1.0])


def test_interval_excludes_zero_only_on_one_side() -> None:
    assert Interval(1.0, 0.5, 1.5, 3).excludes_zero
    assert Interval(-1.0, -1.5, -0.5, 3).excludes_zero
    assert not Interval(0.1, -0.5, 0.7, 3).excludes_zero
