"""Bootstraps against scipy and closed forms; p-values and Holm against scipy and the closed test."""

from __future__ import annotations

import math
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    Estimate,
    bootstrap,
    bootstrap_prompts,
    holm,
    interquartile_mean,
    p_value,
    paired_difference,
    probability_of_improvement,
    welch_difference,
)


def difference(one: np.ndarray, other: np.ndarray, axis: int = 0) -> np.ndarray:
    return one.mean(axis=axis) - other.mean(axis=axis)


@pytest.mark.parametrize("paired", [False, True])
def test_percentile_bootstrap_is_scipys(paired: bool) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(1, 1, 10), rng.normal(0, 1, 10)
    ours = bootstrap(difference, one, other, rng=rng, paired=paired, resamples=40_000)
    expected = stats.bootstrap(
        (one, other), difference, paired=paired, method="percentile", n_resamples=40_000, rng=rng
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert ours.value == pytest.approx(one.mean() - other.mean())
    assert ours.trusted
    assert ("pairs" in ours.how) is paired


def test_with_and_without_axis_are_the_same() -> None:
    values = np.random.default_rng(1).normal(size=(6, 4))
    one = bootstrap(lambda x: x[:, -1].mean(), values, rng=np.random.default_rng(5), resamples=300)
    other = bootstrap(np.mean, values[:, -1], rng=np.random.default_rng(5), resamples=300)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_metrics_are_statistics_of_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.normal(3, 1, 6), rng.normal(0, 1, 9)
    better = bootstrap(probability_of_improvement, one, other, rng=rng)
    assert better.value > 0.9
    assert better.low <= better.value <= better.high <= 1
    assert better.seeds == 6
    middle = bootstrap(interquartile_mean, one, rng=rng)
    assert middle.low < middle.value < middle.high


@pytest.mark.parametrize("seeds", [2, 3, 9])
def test_few_seeds_are_not_trusted(seeds: int) -> None:
    estimate = bootstrap(np.mean, np.arange(float(seeds)), rng=np.random.default_rng(0))
    assert estimate.known
    assert not estimate.trusted
    assert "at least 10" in estimate.why


def test_one_seed_has_no_interval_and_equal_seeds_no_width() -> None:
    rng = np.random.default_rng(0)
    single = bootstrap(np.mean, [0.7], rng=rng)
    assert (single.value, single.known, single.trusted) == (0.7, False, False)
    equal = bootstrap(np.mean, np.full(8, 0.7), rng=rng)
    assert not equal.trusted
    assert not equal.excludes(0.0)
    assert not bootstrap_prompts(np.ones((1, 5)), np.zeros((3, 5)), rng=rng).known


def test_wrong_samples_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="same seeds"):
        bootstrap(difference, [1.0, 2.0], [1.0], rng=rng, paired=True)
    with pytest.raises(ValueError, match="NaN"):
        bootstrap(np.mean, [1.0, math.nan], rng=rng)
    with pytest.raises(ValueError, match="one number for the seeds"):
        bootstrap(lambda x: x, [1.0, 2.0], rng=rng)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap(np.mean, [1.0, 2.0], rng=rng, confidence=95)
    with pytest.raises(ValueError, match="same prompts"):
        bootstrap_prompts(np.ones((3, 5)), np.ones((3, 4)), rng=rng)


def test_prompts_count_and_what_methods_share_of_them_does_not() -> None:
    """Seeds alike: the interval is that of the mean over prompts of the difference, whose error is known."""
    rng = np.random.default_rng(4)
    difficulty, effect = rng.normal(0, 5, 400), rng.normal(0.2, 1, 400)
    first, second = np.tile(difficulty + effect, (3, 1)), np.tile(difficulty, (4, 1))
    estimate = bootstrap_prompts(first, second, rng=rng, resamples=4000)
    assert estimate.value == pytest.approx(effect.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * effect.std() / 20, rel=0.06)


def test_paired_seeds_share_what_they_share() -> None:
    rng = np.random.default_rng(6)
    seeds = rng.normal(0, 1, (20, 1))
    first, second = seeds + rng.normal(0, 0.01, (20, 30)), seeds + rng.normal(0, 0.01, (20, 30))
    paired = bootstrap_prompts(first, second, rng=rng, paired=True)
    apart = bootstrap_prompts(first, second, rng=rng)
    assert paired.high - paired.low < 0.05 * (apart.high - apart.low)


def test_an_estimate_excludes_only_with_an_interval() -> None:
    assert Estimate(2.0, 1.5, 3.0, 5, 0.95, "").excludes(1.0)
    assert not Estimate(2.0, 0.5, 3.0, 5, 0.95, "").excludes(1.0)
    assert Estimate(math.inf, 1.5, math.inf, 5, 0.95, "").excludes(1.0)
    assert not Estimate(2.0, math.nan, math.nan, 1, 0.95, "").excludes(1.0)


def test_p_values_are_scipys() -> None:
    one, other = np.array([0.71, 0.74, 0.69, 0.78]), np.array([0.6, 0.66, 0.71, 0.64])
    assert p_value(one, other) == pytest.approx(stats.ttest_ind(one, other, equal_var=False).pvalue)
    assert p_value(one[:3], other) == pytest.approx(stats.ttest_ind(one[:3], other, equal_var=False).pvalue)
    assert p_value(one, other, paired=True) == pytest.approx(stats.ttest_rel(one, other).pvalue)
    for unknown in ([0.7], [0.7, 0.7]):
        assert math.isnan(p_value(unknown, unknown))
        assert math.isnan(p_value(unknown, unknown, paired=True))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), confidence=st.floats(0.5, 0.999), paired=st.booleans())
def test_p_values_agree_with_intervals(seed: int, confidence: float, paired: bool) -> None:
    one, other = np.random.default_rng(seed).normal([[1.0], [0.0]], 1, (2, 4))
    interval = (paired_difference if paired else welch_difference)(one, other, confidence)
    assert interval.excludes_zero == (p_value(one, other, paired) < 1 - confidence)


def closed_test(p_values: list[float]) -> list[float]:
    """Adjusted p-values by the definition that Holm's procedure shortens: all intersections, by Bonferroni."""
    places = range(len(p_values))
    sets = list(chain.from_iterable(combinations(places, size) for size in range(1, len(p_values) + 1)))
    return [
        max(min(1.0, len(chosen) * min(p_values[k] for k in chosen)) for chosen in sets if place in chosen)
        for place in places
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(closed_test(p_values))


def test_holm_keeps_unknown_ones_unknown() -> None:
    adjusted = holm([0.01, math.nan, 0.2])
    assert adjusted[[0, 2]] == pytest.approx([0.03, 0.4])
    assert math.isnan(adjusted[1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])
