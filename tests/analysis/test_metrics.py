"""Who wins how often, against scipy and counted pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import probability_of_improvement


@pytest.mark.parametrize("ties", [False, True])
def test_probability_of_improvement_is_mann_whitneys(ties: bool) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(0.3, 1, 7), rng.normal(0, 1, 4)
    if ties:
        x, y = x.round(), y.round()
    expected = stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    assert probability_of_improvement(y, x) == pytest.approx(1 - expected)


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
