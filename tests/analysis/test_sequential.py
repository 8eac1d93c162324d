"""Confidences of several looks against Monte Carlo and against what each look may spend."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from analysis.statistics.sequential import look_confidences


def spending(looks: list[int], alpha: float) -> np.ndarray:
    return np.array([alpha * math.log1p((math.e - 1) * n / looks[-1]) for n in looks])


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_one_look_needs_no_more(confidence: float) -> None:
    assert look_confidences([7], confidence) == pytest.approx([confidence], abs=1e-9)


@pytest.mark.parametrize("looks", [[5, 10, 15, 20], [3, 4, 20], [5, 50]])
def test_looks_together_raise_alarms_as_often_as_one(looks: list[int]) -> None:
    """A statistic of n seeds is a walk of n steps over the root of n; what leaves its bounds by look k is spent."""
    rng = np.random.default_rng(0)
    bounds = norm.ppf((1 + np.array(look_confidences(looks))) / 2)
    steps = np.sqrt(np.diff([0, *looks]))
    walk = np.cumsum(steps * rng.normal(size=(200_000, len(looks))), axis=1) / np.sqrt(looks)
    left = np.cumsum(np.abs(walk) > bounds, axis=1) > 0
    error = math.sqrt(0.05 * 0.95 / len(walk))
    assert left.mean(axis=0) == pytest.approx(spending(looks, 0.05), abs=4 * error)


@pytest.mark.parametrize("looks", [[5, 10], [2, 30]])
def test_two_looks_are_exact(looks: list[int]) -> None:
    """Against the bivariate normal distribution."""
    first, second = norm.ppf((1 + np.array(look_confidences(looks))) / 2)
    together = math.sqrt(looks[0] / looks[1])
    both = multivariate_normal([0, 0], [[1, together], [together, 1]])
    inside = both.cdf([first, second], lower_limit=[-first, -second])
    assert 2 * norm.sf(first) == pytest.approx(spending(looks, 0.05)[0])
    assert 1 - inside == pytest.approx(0.05, abs=1e-5)


def test_equal_steps_need_about_pococks_level() -> None:
    """Pocock (Biometrika 64, 1977): four equal looks at 5 % together need 1.82 % each."""
    levels = 1 - np.array(look_confidences([5, 10, 15, 20]))
    assert levels == pytest.approx([0.0182] * 4, abs=0.0045)
    assert levels.min() > 0.0125  # Bonferroni's


def test_many_looks() -> None:
    found = look_confidences(list(range(3, 41)))
    assert len(found) == 38
    assert all(0.95 < confidence < 1 for confidence in found)


@pytest.mark.parametrize("looks", [[], [5, 5], [10, 5], [0, 5]])
def test_looks_have_to_grow(looks: list[int]) -> None:
    with pytest.raises(ValueError, match="growing"):
        look_confidences(looks)


def test_confidence_must_be_a_probability() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        look_confidences([5], 95)
