"""Speed-ups against known answers: stretched curves, Welch's interval in the limit, symmetry, open sides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import (
    Estimate,
    log_cost_spread,
    paired_difference,
    power_of,
    seeds_needed,
    speed_up,
    welch_difference,
)

RNG = np.random.default_rng(0)  # of no effect but for the bootstrap
COST = np.linspace(0, 60, 13)


def curves(
    seed: int, speed: float = 1.0, seeds: int = 5, spread: float = 0.15, noise: float = 0.05
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level, rate = 1 + spread * rng.normal(size=(seeds, 1)), np.exp(spread * rng.normal(size=(seeds, 1)))
    values = level * (1 - np.exp(-COST * speed * rate / 20)) + noise * rng.normal(size=(seeds, len(COST)))
    values[:, 0] = 0
    return values


def limits(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def test_a_stretched_curve_is_faster_by_its_stretch() -> None:
    values = curves(0)
    estimate = speed_up(COST / 1.66, values, COST, values, 0.7, RNG)
    assert estimate.value == pytest.approx(1.66)
    assert estimate.low < 1.66 < estimate.high
    assert (estimate.seeds, estimate.trusted, estimate.known) == (5, True, True)
    paired = speed_up(COST / 1.66, values, COST, values, 0.7, RNG, paired=True)
    assert limits(paired) == pytest.approx([1.66] * 3, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    target=st.floats(0.2, 1.1),
    paired=st.booleans(),
    scale=st.floats(0.1, 100),
    slope=st.floats(0.1, 10),
)
def test_exchanged_methods_give_the_reciprocal_in_any_unit(
    seed: int, target: float, paired: bool, scale: float, slope: float
) -> None:
    first, baseline = curves(seed, 1.4, seeds=4), curves(seed + 1, seeds=4)
    one = speed_up(COST, first, COST, baseline, target, RNG, paired)
    other = speed_up(
        scale * COST,
        slope * baseline - 2,
        scale * COST,
        slope * first - 2,
        slope * target - 2 - 1e-12,
        RNG,
        paired,
    )
    with np.errstate(divide="ignore"):
        reciprocal = 1 / np.array([other.value, other.high, other.low])
    assert limits(one) == pytest.approx(list(reciprocal), rel=1e-5, nan_ok=True)
    assert one.trusted == other.trusted


@pytest.mark.parametrize("paired", [False, True])
def test_small_spread_gives_students_interval_of_the_log_costs(paired: bool) -> None:
    """Straight curves without noise: each seed's own cost is known, and the log ratio is a difference of means."""
    rng = np.random.default_rng(3)
    rates = np.exp(0.001 * rng.normal(size=(2, 5)))
    first, baseline = rates[0][:, None] * COST / 40, rates[1][:, None] * COST / 60
    interval = (paired_difference if paired else welch_difference)(
        np.log(60 / rates[1]), np.log(40 / rates[0])
    )
    estimate = speed_up(COST, first, COST, baseline, 0.7, RNG, paired)
    expected = np.exp([interval.mean, interval.low, interval.high])
    assert limits(estimate) == pytest.approx(expected, rel=1e-5)
    spread = np.log(rates[0]).std(ddof=1)
    assert log_cost_spread(COST, first, 0.7) == pytest.approx(spread, rel=2e-3)


def test_flattening_curves_have_lopsided_intervals() -> None:
    """Later is farther than earlier where a curve flattens: the baseline's doubt is upwards."""
    estimate = speed_up(COST, curves(1, noise=0, spread=0.02), COST, curves(2, noise=0), 0.75, RNG)
    assert math.log(estimate.high / estimate.value) > 1.2 * math.log(estimate.value / estimate.low)


def test_a_spike_of_one_seed_does_not_make_a_method_fast() -> None:
    values = curves(4, noise=0)
    spike = values.copy()
    spike[0, 1] = 3.0  # an evaluation of luck: lifts the mean of five over 0.7 at the first evaluation
    assert spike[:, 1].mean() > 0.7
    plain = speed_up(COST, values, COST, values, 0.7, RNG).value
    lucky = speed_up(COST, spike, COST, values, 0.7, RNG)
    assert plain == pytest.approx(1.0)
    assert 1 <= lucky.value < 1.5  # the first crossing of the mean as it stands would say more than 5
    assert lucky.low < 1 < lucky.high


def test_what_is_lost_later_was_reached_all_the_same() -> None:
    rise = curves(5, noise=0)
    collapse = np.where(COST > 45, 0.1 * rise, rise)
    before, after = (speed_up(COST, values, COST, rise, 0.7, RNG) for values in (rise, collapse))
    assert after.value == pytest.approx(before.value)
    assert after.trusted


def test_a_first_method_that_never_arrives_has_an_upper_limit() -> None:
    estimate = speed_up(COST, 0.3 * curves(6), COST, curves(7), 0.7, RNG)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert not estimate.trusted
    assert "first method" in estimate.why
    baseline = speed_up(COST, curves(7), COST, curves(7), 0.7, RNG)
    assert baseline.value == 1
    assert 0.3 < estimate.high < 1  # at least the baseline's cost, about 25, over the 60 that were not enough


def test_a_baseline_that_never_arrives_has_a_lower_limit() -> None:
    mirrored = speed_up(COST, 0.3 * curves(6), COST, curves(7), 0.7, RNG)
    estimate = speed_up(COST, curves(7), COST, 0.3 * curves(6), 0.7, RNG)
    assert (estimate.value, estimate.high) == (math.inf, math.inf)
    assert estimate.low == pytest.approx(1 / mirrored.high)
    assert estimate.excludes(1.0)
    assert "baseline" in estimate.why
    bootstrapped = speed_up(
        COST, curves(7), COST, 0.3 * curves(6), 0.7, RNG, method="bootstrap", resamples=50
    )
    assert bootstrapped.high == math.inf
    assert not bootstrapped.trusted


def test_two_that_never_arrive_say_nothing() -> None:
    estimate = speed_up(COST, curves(6), COST, curves(7), 5.0, RNG)
    assert math.isnan(estimate.value)
    assert (estimate.low, estimate.high, estimate.trusted) == (0.0, math.inf, False)


def test_a_curve_that_may_not_arrive_leaves_a_side_open() -> None:
    """The mean arrives, but the mean less a standard error does not."""
    baseline = curves(8, seeds=3, spread=0.3)
    target = 0.97 * baseline.mean(axis=0).max()
    estimate = speed_up(COST, curves(9, 2.0, spread=0.02), COST, baseline, target, RNG)
    assert estimate.high == math.inf
    assert 0 < estimate.low < estimate.value < math.inf
    assert estimate.trusted
    assert math.isnan(log_cost_spread(COST, baseline, target))


def test_one_seed_has_a_value_and_no_interval() -> None:
    estimate = speed_up(COST, curves(0, 1.5, seeds=1), COST, curves(1, seeds=4), 0.6, RNG)
    assert estimate.value > 0
    assert (estimate.known, estimate.trusted, estimate.seeds) == (False, False, 1)
    assert math.isnan(log_cost_spread(COST, curves(0, seeds=1), 0.6))


def test_equal_seeds_are_not_trusted() -> None:
    values = np.tile(curves(0, seeds=1), (3, 1))
    estimate = speed_up(COST / 2, values, COST, values, 0.6, RNG)
    assert limits(estimate) == pytest.approx([2.0] * 3)
    assert not estimate.trusted
    assert not estimate.excludes(1.0)


def test_seeds_with_costs_of_their_own() -> None:
    """Seconds differ a little between seeds; costs that agree give what a common cost gives."""
    first, baseline = curves(10, 1.5), curves(11)
    common = speed_up(COST, first, COST, baseline, 0.7, RNG)
    tiled = speed_up(np.tile(COST, (5, 1)), first, COST, baseline, 0.7, RNG)
    assert limits(tiled) == limits(common)
    jitter = COST * np.linspace(0.99, 1.01, 5)[:, None]
    assert limits(speed_up(jitter, first, COST, baseline, 0.7, RNG)) == pytest.approx(
        limits(common), rel=0.05
    )


def test_a_seed_that_was_evaluated_less_often_is_interpolated() -> None:
    """Straight curves are known between evaluations; the last point is repeated to fill the array."""
    rates = np.linspace(0.9, 1.1, 5)[:, None]
    values, cost = rates * COST / 60, np.tile(COST, (5, 1))
    full = speed_up(cost, values, COST, values, 0.5, RNG)
    lacking, at = values.copy(), cost.copy()
    for array in (lacking, at):
        array[1] = np.append(np.delete(array[1], 6), array[1, -1])
    assert limits(speed_up(at, lacking, COST, values, 0.5, RNG)) == pytest.approx(limits(full), rel=1e-9)


def test_several_comparisons_widen_and_say_so() -> None:
    first, baseline = curves(12, 1.5), curves(13)
    widened = speed_up(COST, first, COST, baseline, 0.7, RNG, comparisons=4)
    strict = speed_up(COST, first, COST, baseline, 0.7, RNG, confidence=1 - 0.05 / 4)
    assert limits(widened) == limits(strict)
    assert widened.confidence == 0.95
    assert "4 comparisons" in widened.how


def test_the_bootstrap_is_there_and_narrower_with_few_seeds() -> None:
    first, baseline = curves(14, 1.5, seeds=3), curves(15, seeds=3)
    shift = speed_up(COST, first, COST, baseline, 0.7, RNG)
    drawn = speed_up(
        COST, first, COST, baseline, 0.7, np.random.default_rng(1), method="bootstrap", resamples=200
    )
    assert drawn.value == shift.value
    assert shift.low < drawn.low <= drawn.value <= drawn.high < shift.high
    assert not drawn.trusted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 0.0}, "no higher than where the curves of the first start"),
        ({"target": math.nan}, "finite"),
        ({"cost_first": COST + 5}, "count them from 0"),
        ({"method": "magic"}, "shift, bootstrap"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"comparisons": 0}, "1 or more"),
        ({"values_baseline": curves(1, seeds=3), "paired": True}, "same seeds"),
        ({"values_first": np.full((5, 13), np.nan)}, "leave out"),
        ({"cost_first": COST[:1], "values_first": np.ones((5, 1)) * 0.1}, "second evaluation"),
    ],
)
def test_questions_without_an_answer_are_refused(arguments: dict, message: str) -> None:
    usual = {
        "cost_first": COST,
        "values_first": curves(0),
        "cost_baseline": COST,
        "values_baseline": curves(1),
        "target": 0.7,
        "rng": RNG,
    }
    with pytest.raises(ValueError, match=message):
        speed_up(**{**usual, **arguments})


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_are_those_of_cohens_table(effect: float, seeds: int) -> None:
    """Cohen, Statistical Power Analysis, table 2.4: two-sided 5 %, power 0.8, per group."""
    plan = seeds_needed(math.exp(effect), spread=1.0)
    assert plan.seeds == seeds
    assert plan.reached >= 0.8 > power_of(math.exp(effect), seeds - 1, 1.0)
    assert seeds_needed(math.exp(-effect), spread=1.0).seeds == seeds


@pytest.mark.parametrize(("seeds", "other"), [(3, 0.3), (10, 0.3), (5, 0.1)])
def test_power_is_the_share_of_tests_that_find_it(seeds: int, other: float) -> None:
    rng = np.random.default_rng(2)
    first = rng.normal(0, 0.3, (4000, seeds))
    second = rng.normal(math.log(1.66), other, (4000, seeds))
    found = np.mean([welch_difference(*pair).excludes_zero for pair in zip(first, second, strict=True)])
    assert power_of(1.66, seeds, 0.3, other) == pytest.approx(found, abs=0.04)


def test_power_at_its_ends() -> None:
    assert power_of(1.0, 500, 0.3) == pytest.approx(0.05, abs=1e-4)
    assert 0.03 < power_of(1.0, 3, 0.3) < 0.05  # Welch's test is careful with few seeds
    assert math.isnan(power_of(1.5, 1, 0.3))
    assert seeds_needed(1.001, 1.0).seeds is None
    assert seeds_needed(1.5, 0.0).seeds == 2
    for arguments, message in (
        ((1.0, 0.3), "no speed-up"),
        ((-1.0, 0.3), "positive"),
        ((1.5, -1.0), "spreads"),
    ):
        with pytest.raises(ValueError, match=message):
            seeds_needed(*arguments)
