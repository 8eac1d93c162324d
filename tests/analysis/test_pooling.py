"""The pooled estimate against closed forms, the defining equation of the variance between runs, and the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from analysis.statistics import mean_interval
from analysis.statistics.pooling import pooled


def test_equal_errors_give_students_interval_of_the_runs() -> None:
    """What runs differ by more than their errors is between them; the errors then no longer matter."""
    effects = [0.3, 0.9, 0.1, 0.5]
    found, expected = pooled(effects, [0.1] * 4), mean_interval(effects)
    assert (found.mean.mean, found.mean.low, found.mean.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert found.mean.n == 4
    assert found.weights == pytest.approx([0.25] * 4)
    assert found.between == pytest.approx(math.sqrt(np.var(effects, ddof=1) - 0.01))
    assert found.heterogeneity == pytest.approx(1 - 3 / (np.var(effects) * 4 / 0.01))


def test_paule_and_mandels_variance_by_its_definition() -> None:
    """Weights 1 / (error squared + between squared) make the weighted sum of squares the number of runs less one."""
    effects, errors = np.array([0.1, 0.7, 0.4, 1.1, -0.2]), np.array([0.1, 0.25, 0.2, 0.3, 0.15])

    def moments(square: float) -> tuple[float, np.ndarray]:
        weights = 1 / (errors**2 + square)
        mean = weights @ effects / weights.sum()
        return float(weights @ (effects - mean) ** 2), weights

    square = optimize.brentq(lambda s: moments(s)[0] - 4, 0, 10, xtol=1e-14)
    _, weights = moments(square)
    shares = weights / weights.sum()
    mean = shares @ effects
    width = stats.t.ppf(0.95, 4) * math.sqrt(shares @ (effects - mean) ** 2 / 4)
    found = pooled(list(effects), list(errors), confidence=0.9)
    assert found.between == pytest.approx(math.sqrt(square), rel=1e-4)
    assert found.weights == pytest.approx(shares, rel=1e-4)
    assert (found.mean.mean, found.mean.low, found.mean.high) == pytest.approx(
        (mean, mean - width, mean + width), rel=1e-3
    )
    assert found.mean.confidence == 0.9


@settings(max_examples=50, deadline=None)
@given(
    effect=st.floats(-1, 1),
    gap=st.floats(0, 1),
    errors=st.tuples(st.floats(0.05, 0.5), st.floats(0.05, 0.5)),
)
def test_agreement_by_chance_does_not_make_the_mean_certain(
    effect: float, gap: float, errors: tuple[float, float]
) -> None:
    """Never narrower than the runs' own errors allow; two runs of one effect would have no width at all."""
    found = pooled([effect, effect + gap], errors)
    own = stats.t.ppf(0.975, 1) / math.sqrt(sum(error**-2 for error in errors))
    assert found.mean.half_width >= own * (1 - 1e-6)


@pytest.mark.parametrize("runs", [2, 3, 6])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_the_interval_holds_over_few_runs(runs: int, between: float) -> None:
    rng = np.random.default_rng([runs, round(10 * between)])
    held = []
    for _ in range(250):
        errors = rng.uniform(0.1, 0.3, runs)
        effects = rng.normal(0, between, runs) + rng.normal(0, errors)
        held.append(not pooled(list(effects), list(errors)).mean.excludes_zero)
    assert np.mean(held) > 0.94 - 3 * math.sqrt(0.06 * 0.94 / 250)


@pytest.mark.parametrize(
    ("effects", "errors", "message"),
    [
        ([0.1], [0.1], "two runs or more"),
        ([0.1, 0.2], [0.1], "two runs or more"),
        ([0.1, 0.2], [0.1, 0.0], "above 0"),
        ([0.1, math.nan], [0.1, 0.1], "finite"),
    ],
)
def test_what_cannot_be_pooled_is_refused(effects: list, errors: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pooled(effects, errors)
