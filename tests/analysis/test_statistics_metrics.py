"""Metrics of curves against integrals, interpolation and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import integrate, stats

from analysis.statistics import (
    area_under_curve,
    cost_to_target,
    final_value,
    interquartile_mean,
    probability_of_improvement,
)

COST = np.array([0.0, 5.0, 10.0, 20.0])
VALUES = np.array([[0.0, 0.5, 0.4, 1.0], [0.0, 0.1, 0.2, 0.3]])
heights = arrays.arrays(np.float64, (2, 6), elements=st.floats(-10, 10, width=32))
steps = arrays.arrays(np.float64, 6, elements=st.floats(0.125, 5, width=32))


def test_final_value_is_the_last() -> None:
    assert final_value(VALUES).tolist() == [1.0, 0.3]


def test_area_is_the_mean_height() -> None:
    expected = [integrate.trapezoid(row, COST) / 20 for row in VALUES]
    assert area_under_curve(COST, VALUES) == pytest.approx(expected, rel=1e-12)
    assert area_under_curve(COST, np.full((1, 4), 0.7)) == pytest.approx([0.7])


@settings(max_examples=60, deadline=None)
@given(values=heights, widths=steps, share=st.floats(0.05, 1))
def test_area_up_to_a_cost_is_the_integral_of_the_drawn_line(
    values: np.ndarray, widths: np.ndarray, share: float
) -> None:
    cost = np.cumsum(widths)
    end = cost[0] + share * (cost[-1] - cost[0])
    fine = np.union1d(np.linspace(cost[0], end, 2001), cost[cost < end])
    expected = [integrate.trapezoid(np.interp(fine, cost, row), fine) / (end - cost[0]) for row in values]
    assert area_under_curve(cost, values, end) == pytest.approx(expected, abs=1e-9)


def test_area_beyond_a_curves_end_is_unknown() -> None:
    cost = np.stack([COST, COST / 2])
    area = area_under_curve(cost, VALUES, 15.0)
    assert np.isfinite(area[0])
    assert np.isnan(area[1])
    with pytest.raises(ValueError, match="range of costs"):
        area_under_curve(COST, VALUES, 0.0)


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
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=0))
    assert interquartile_mean(values, axis=1) == pytest.approx(stats.trim_mean(values, 0.25, axis=1))


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
    with pytest.raises(ValueError, match=message):
        area_under_curve(cost, values)


def test_equal_but_for_rounding_is_a_tie() -> None:
    """Means of the same float32 rewards, summed in another order."""
    x = np.array([0.7, 0.7 + 1.24e-9])
    assert probability_of_improvement(x, x[::-1]) == 0.5
    assert probability_of_improvement(x + 1e-5, x) == 1.0
