"""Metrics of curves and of seeds against interpolation and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from analysis.statistics import cost_to_target, interquartile_mean, probability_of_improvement

COST = np.array([0.0, 5.0, 10.0, 20.0])
VALUES = np.array([[0.0, 0.5, 0.4, 1.0], [0.0, 0.1, 0.2, 0.3]])
heights = arrays.arrays(np.float64, (2, 6), elements=st.floats(-10, 10, width=32))
steps = arrays.arrays(np.float64, 6, elements=st.floats(0.125, 5, width=32))


def test_cost_to_target_by_hand() -> None:
    assert cost_to_target(COST, VALUES, 0.45).tolist() == [4.5, np.inf]
    assert cost_to_target(COST, VALUES, 0.25).tolist() == [2.5, 15.0]
    assert cost_to_target(COST, VALUES, 0.5).tolist() == [5.0, np.inf]  # exactly at an evaluation
    assert cost_to_target(COST + 3, VALUES, -1.0).tolist() == [3.0, 3.0]  # reached before any cost


@settings(max_examples=100, deadline=None)
@given(values=heights, widths=steps, target=st.floats(-10, 10))
def test_a_curve_is_at_the_target_where_it_first_reaches_it(
    values: np.ndarray, widths: np.ndarray, target: float
) -> None:
    cost = np.cumsum(widths)
    for row, crossing in zip(values, cost_to_target(cost, values, target), strict=True):
        if np.isinf(crossing):
            assert row.max() < target
        elif row[0] >= target:
            assert crossing == cost[0]
        else:
            assert np.interp(crossing, cost, row) == pytest.approx(target, abs=1e-6)
            assert (row[cost < crossing - 1e-9] < target).all()


def test_costs_of_each_seed_are_its_own() -> None:
    twice = np.stack([COST, 2 * COST])
    assert cost_to_target(twice, VALUES, 0.25).tolist() == [2.5, 30.0]


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_interquartile_mean_is_scipys(count: int) -> None:
    values = np.random.default_rng(count).standard_cauchy((count, 6))
    assert interquartile_mean(values, axis=0) == pytest.approx(stats.trim_mean(values, 0.25, axis=0))
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=1))
    together = stats.trim_mean(values.ravel(), 0.25)
    assert interquartile_mean(values, axis=(0, -1)) == pytest.approx(together)
    stacked = interquartile_mean(np.stack([values, values + 1]), axis=(1, 2))
    assert stacked == pytest.approx([together, together + 1])


@pytest.mark.parametrize("ties", [False, True])
def test_probability_of_improvement_is_mann_whitneys(ties: bool) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(0.3, 1, 7), rng.normal(0, 1, 4)
    if ties:
        x, y = x.round(), y.round()
    expected = stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    assert probability_of_improvement(y, x) == pytest.approx(1 - expected)


@pytest.mark.parametrize(
    ("cost", "values", "message"),
    [
        (COST, np.where(VALUES == 0.4, np.nan, VALUES), "leave out those seeds"),
        (COST[::-1], VALUES, "cumulative"),
        (COST[:2], VALUES, "cost must be"),
        (COST, VALUES[0], "values must be"),
        (np.where(COST == 5, np.inf, COST), VALUES, "cost has 1"),
    ],
)
def test_what_is_no_curve_is_refused(cost: np.ndarray, values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost_to_target(cost, values, 0.5)


def test_a_target_is_a_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        cost_to_target(COST, VALUES, np.nan)


def test_equal_but_for_rounding_is_a_tie() -> None:
    """Means of the same float32 rewards, summed in another order."""
    x = np.array([0.7, 0.7 + 1.24e-9])
    assert probability_of_improvement(x, x[::-1]) == 0.5
    assert probability_of_improvement(x + 1e-5, x) == 1.0


def test_ties_count_half() -> None:
    assert probability_of_improvement([1.0, 1.0], [1.0, 1.0, 1.0]) == 0.5
    assert probability_of_improvement([0.0, 1.0], [0.0, 1.0]) == 0.5
    assert probability_of_improvement([1.0, 2.0], [0.0, 1.0]) == 0.875
    assert probability_of_improvement([0.0], [0.0]) == 0.5


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6), st.lists(st.integers(0, 4), min_size=1, max_size=6)
)
def test_improvement_is_the_share_of_pairs(x: list[int], y: list[int]) -> None:
    expected = np.mean([(a > b) + 0.5 * (a == b) for a in x for b in y])
    assert probability_of_improvement(x, y) == pytest.approx(expected)
