"""Seeds needed against Cohen's table, the noncentral t distribution and repeated tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.planning import MOST_SEEDS, seeds_needed


def power(effect: float, seeds: int, alpha: float) -> float:
    """Of Student's two-sided test of two groups to find the right sign, by the noncentral t distribution."""
    freedom, shift = 2 * seeds - 2, effect * math.sqrt(seeds / 2)
    bound = stats.t.ppf(1 - alpha / 2, freedom)
    return float(stats.nct.sf(bound, freedom, shift))


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_are_those_of_cohens_table(effect: float, seeds: int) -> None:
    """Cohen, Statistical Power Analysis, table 2.4: two-sided 5 %, power 0.8, per group."""
    assert seeds_needed(math.exp(effect), spread=1.0) == seeds
    assert seeds_needed(math.exp(-effect), spread=1.0) == seeds


@pytest.mark.parametrize("ratio", [1.25, 1.66, 3.0])
@pytest.mark.parametrize("spread", [0.2, 0.5])
@pytest.mark.parametrize("comparisons", [1, 4])
def test_no_fewer_seeds_would_do(ratio: float, spread: float, comparisons: int) -> None:
    effect, alpha = math.log(ratio) / spread, 0.05 / comparisons
    expected = next(n for n in range(2, 1000) if power(effect, n, alpha) >= 0.8)
    assert seeds_needed(ratio, spread, comparisons=comparisons) == expected


def test_more_is_asked_of_more() -> None:
    counts = [seeds_needed(1.66, 0.35, comparisons=n) or 0 for n in range(1, 8)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    powers = [seeds_needed(1.66, 0.35, power=p) or 0 for p in (0.5, 0.8, 0.9, 0.99)]
    assert powers == sorted(set(powers))
    ratios = [seeds_needed(r, 0.35) or 0 for r in (1.2, 1.4, 1.66, 3.0)]
    assert ratios == sorted(set(ratios), reverse=True)


def test_as_many_seeds_find_it_as_often_as_asked() -> None:
    seeds = seeds_needed(1.66, 0.3)
    assert seeds is not None
    rng = np.random.default_rng(2)
    first, second = rng.normal(0, 0.3, (4000, seeds)), rng.normal(math.log(1.66), 0.3, (4000, seeds))
    found = float((stats.ttest_ind(first, second, axis=1).pvalue < 0.05).mean())
    assert found == pytest.approx(power(math.log(1.66) / 0.3, seeds, 0.05), abs=0.025)
    assert found > 0.8 - 0.025


def test_the_ends() -> None:
    assert seeds_needed(1.001, 1.0) is None
    assert seeds_needed(100.0, 0.01) == 2
    last = next(r for r in np.arange(1.15, 1.0, -0.001) if seeds_needed(r, 1.0) is None)
    assert power(math.log(last), MOST_SEEDS, 0.05) < 0.8 <= power(math.log(last + 0.001), MOST_SEEDS, 0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 1.0}, "other than 1"),
        ({"ratio": -1.0}, "positive"),
        ({"spread": 0.0}, "above 0"),
        ({"spread": math.nan}, "above 0"),
        ({"power": 80}, "between 0 and 1"),
        ({"comparisons": 0}, "1 or more"),
    ],
)
def test_questions_without_an_answer_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seeds_needed(**{"ratio": 1.5, "spread": 0.3, **arguments})
