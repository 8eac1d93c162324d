"""Speed-ups against known answers: stretched curves, Welch's interval in the limit, units, open sides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import welch_difference
from analysis.statistics.speed import NO_SPREAD, ONE_SEED, Estimate, Span, mean_cost, span_targets, speed_up

COST = np.linspace(0, 60, 13)
WHOLE = Span(0.25, 0.85)


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


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.66, 4.0])
def test_a_stretched_curve_is_faster_by_its_stretch(ratio: float) -> None:
    values = curves(0)
    estimate = speed_up(COST / ratio, values, COST, values, WHOLE)
    assert estimate.value == pytest.approx(ratio, rel=1e-9)
    assert estimate.low < ratio < estimate.high
    assert (estimate.seeds, estimate.known, estimate.why) == (5, True, "")


@pytest.mark.parametrize("span", [WHOLE, Span(0.4, 0.6), Span(0.75, 0.75)])
@pytest.mark.parametrize("ratio", [0.8, 1.25, 1.66, 3.0])
def test_curves_without_noise_give_the_ratio_on_grids_of_their_own(span: Span, ratio: float) -> None:
    """One law learnt at two speeds and evaluated often, at costs that have nothing to do with each other."""
    ours, theirs = np.linspace(0, 70, 1400), np.concatenate([[0], np.geomspace(0.01, 60, 1000)])
    levels = np.array([[0.9], [1.0], [1.1]])
    first = levels * (1 - np.exp(-ours * ratio / 20))
    baseline = levels * (1 - np.exp(-theirs / 20))
    assert speed_up(ours, first, theirs, baseline, span).value == pytest.approx(ratio, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), slope=st.floats(0.1, 10), shift=st.floats(-5, 5)
)
def test_units_of_cost_and_of_reward_do_not_matter(
    seed: int, scale: float, slope: float, shift: float
) -> None:
    first, baseline = curves(seed, 1.4, seeds=4), curves(seed + 1, seeds=4)
    one = speed_up(COST, first, COST, baseline, WHOLE)
    other = speed_up(scale * COST, slope * first + shift, scale * COST, slope * baseline + shift, WHOLE)
    assert limits(other) == pytest.approx(limits(one), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), price=st.floats(0.1, 10))
def test_a_price_divides_the_whole_interval(seed: int, price: float) -> None:
    """Each iteration of the first costs `price` times as much: estimate and limits are that much lower."""
    first, baseline = curves(seed, 1.4, seeds=4), curves(seed + 1, seeds=4)
    cheap = speed_up(COST, first, COST, baseline, WHOLE)
    dear = speed_up(price * COST, first, COST, baseline, WHOLE)
    assert limits(dear) == pytest.approx([entry / price for entry in limits(cheap)], rel=1e-6)


def test_small_spread_gives_students_interval_of_the_log_costs() -> None:
    """Straight curves without noise: each seed's own cost is known, and the log ratio is a difference of means.

    The baseline's seeds are alike: its targets do not move. The interval is a little wider than Student's.
    """
    rng = np.random.default_rng(3)
    rates = np.exp(0.001 * rng.normal(size=5))
    first, baseline = rates[:, None] * COST / 40, np.tile(COST / 60, (5, 1))
    welch = welch_difference(np.log(60 * np.ones(5)), np.log(40 / rates))
    estimate = speed_up(COST, first, COST, baseline, WHOLE)
    assert math.log(estimate.value) == pytest.approx(welch.mean, abs=1e-5)
    assert estimate.spread == pytest.approx((np.log(rates).std(ddof=1), 0), rel=2e-3)
    width = math.log(estimate.high / estimate.low) / 2
    assert welch.half_width < width < 1.15 * welch.half_width


def test_targets_move_with_the_baseline() -> None:
    """A baseline whose seeds differ in how far they get, not in how soon: its own costs say nothing, its targets do."""
    levels = np.array([0.7, 0.9, 1.0, 1.1, 1.3])
    baseline = levels[:, None] * COST / 60
    estimate = speed_up(COST, np.tile(COST / 30, (5, 1)), COST, baseline, WHOLE)
    assert estimate.value == pytest.approx(2.0)
    assert estimate.spread == pytest.approx((0, levels.std(ddof=1)), rel=0.05)


def test_a_spike_of_one_seed_does_not_make_a_method_fast() -> None:
    values = curves(4, noise=0)
    spike = values.copy()
    spike[0, 1] = (
        3.0  # an evaluation of luck: lifts the mean of five over most targets at the first evaluation
    )
    lucky = speed_up(COST, spike, COST, values, WHOLE)
    assert 1 <= lucky.value < 2
    assert lucky.low < 1 < lucky.high


def test_what_is_lost_later_was_reached_all_the_same() -> None:
    rise = curves(5, noise=0)
    collapse = np.where(COST > 50, 0.1 * rise, rise)
    before, after = (speed_up(COST, values, COST, rise, WHOLE) for values in (rise, collapse))
    assert after.value == pytest.approx(before.value)
    assert after.value > 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("speed", [1.0, 5.0])
def test_a_method_that_does_not_get_through_may_be_slower_and_is_never_faster(
    seed: int, speed: float
) -> None:
    estimate = speed_up(COST, 0.6 * curves(seed, speed), COST, curves(seed + 20), WHOLE)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert math.isfinite(estimate.high)
    assert "25% to 85%" in estimate.why
    assert not estimate.low > 1


def test_a_method_that_hardly_starts_is_slower() -> None:
    estimate = speed_up(COST, 0.2 * curves(6), COST, curves(7), WHOLE)
    assert estimate.value == 0
    assert estimate.high < 1
    assert estimate.excludes(1.0)
    fall = speed_up(COST, -curves(6, noise=0), COST, curves(7), WHOLE)  # its highest point is its first
    assert (fall.value, fall.low) == (0.0, 0.0)
    assert fall.high < 1


def test_who_gets_through_by_chance_has_no_lower_limit() -> None:
    """Both mean curves get through the span; one by a multiple of the spread over seeds, the other by a fraction."""
    baseline = np.array([0.98, 1.0, 1.02])[:, None] * COST / 60
    shape = np.minimum(COST / 20, 1.0)
    clear = speed_up(COST, np.array([0.9, 1.0, 1.1])[:, None] * shape, COST, baseline, WHOLE)
    doubtful = speed_up(COST, np.array([0.8, 0.9, 1.0])[:, None] * shape, COST, baseline, WHOLE)
    assert clear.low > 1
    assert doubtful.value > 2
    assert doubtful.low == 0
    assert doubtful.high > doubtful.value
    assert not doubtful.excludes(1.0)


@pytest.mark.parametrize("end", [0.0, -0.2])
def test_a_baseline_that_gains_nothing_sets_no_target(end: float) -> None:
    flat = curves(0)
    flat[:, -1] = end
    with pytest.raises(ValueError, match="sets no target"):
        speed_up(COST, curves(1), COST, flat, WHOLE)


def test_one_seed_has_a_value_and_no_interval() -> None:
    estimate = speed_up(COST, curves(0, 1.5, seeds=1), COST, curves(1, seeds=4), WHOLE)
    assert estimate.value > 0
    assert (estimate.known, estimate.seeds, estimate.why) == (False, 1, ONE_SEED)
    assert not estimate.excludes(1.0)


def test_equal_seeds_have_a_value_and_no_interval() -> None:
    values = np.tile(curves(0, seeds=1), (3, 1))
    estimate = speed_up(COST / 2, values, COST, values, WHOLE)
    assert estimate.value == pytest.approx(2.0)
    assert (estimate.known, estimate.why) == (False, NO_SPREAD)
    assert not estimate.excludes(1.0)


def test_seeds_with_costs_of_their_own() -> None:
    """Seconds differ a little between seeds; costs that agree give what a common cost gives."""
    first, baseline = curves(10, 1.5), curves(11)
    common = speed_up(COST, first, COST, baseline, WHOLE)
    tiled = speed_up(np.tile(COST, (5, 1)), first, COST, baseline, WHOLE)
    assert limits(tiled) == limits(common)
    jitter = COST * np.linspace(0.99, 1.01, 5)[:, None]
    assert limits(speed_up(jitter, first, COST, baseline, WHOLE)) == pytest.approx(limits(common), rel=0.05)


def test_a_seed_that_was_evaluated_less_often_is_interpolated() -> None:
    """Straight curves are known between evaluations; the last point is repeated to fill the array."""
    rates = np.linspace(0.9, 1.1, 5)[:, None]
    values, cost = rates * COST / 60, np.tile(COST, (5, 1))
    full = speed_up(cost, 2 * values, COST, values, WHOLE)
    lacking, at = values.copy(), cost.copy()
    for array in (lacking, at):
        array[1] = np.append(np.delete(array[1], 6), array[1, -1])
    assert limits(speed_up(at, 2 * lacking, COST, values, WHOLE)) == pytest.approx(limits(full), rel=1e-9)


def test_several_comparisons_widen() -> None:
    first, baseline = curves(12, 1.5), curves(13)
    plain = speed_up(COST, first, COST, baseline, WHOLE)
    widened = speed_up(COST, first, COST, baseline, WHOLE, comparisons=4)
    strict = speed_up(COST, first, COST, baseline, WHOLE, confidence=1 - 0.05 / 4)
    assert limits(widened) == pytest.approx(limits(strict))
    assert widened.low < plain.low < plain.value == widened.value < plain.high < widened.high
    assert widened.confidence == 0.95


def test_mean_costs_are_those_of_the_ratio() -> None:
    first, baseline = curves(14, 1.5), curves(15)
    targets = span_targets(WHOLE, 0.0, float(baseline.mean(axis=0)[-1]))
    ratio = mean_cost(COST, baseline, targets) / mean_cost(COST, first, targets)
    assert speed_up(COST, first, COST, baseline, WHOLE).value == pytest.approx(ratio)
    assert mean_cost(COST, 0.5 * first, targets) == math.inf


def test_targets_of_a_span() -> None:
    targets = span_targets(Span(0.25, 0.75), 1.0, 3.0)
    assert (targets[0], targets[-1]) == (1.5, 2.5)
    assert np.diff(targets) == pytest.approx(np.diff(targets)[0])
    assert span_targets(Span(0.5, 0.5), 0.0, 1.0).tolist() == [0.5]


def test_an_estimate_excludes_only_with_an_interval() -> None:
    assert Estimate(2.0, 1.5, 3.0, 5).excludes(1.0)
    assert not Estimate(2.0, 0.5, 3.0, 5).excludes(1.0)
    assert Estimate(math.inf, 1.5, math.inf, 5).excludes(1.0)
    assert not Estimate(2.0, math.nan, math.nan, 1).excludes(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"span": Span(0.0, 0.5)}, "shares of the baseline's gain"),
        ({"span": Span(0.6, 0.5)}, "shares of the baseline's gain"),
        ({"span": Span(0.5, 1.2)}, "shares of the baseline's gain"),
        ({"cost_first": COST + 5}, "count them from 0"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"comparisons": 0}, "1 or more"),
        ({"values_first": np.full((5, 13), np.nan)}, "leave out"),
        ({"values_first": np.where(np.arange(5) == 2, np.nan, 1.0)[:, None] * curves(0)}, "leave out"),
        (
            {"values_first": np.where(curves(0) == curves(0).max(), np.inf, curves(0))},
            "values has 1 entries of 65",
        ),
        ({"cost_first": np.where(COST == 5, np.inf, COST)}, "cost has 1 entries"),
        ({"cost_first": COST[::-1]}, "cumulative"),
        ({"cost_first": COST[:2]}, "cost must be"),
        ({"values_first": curves(0)[0]}, "values must be"),
        ({"cost_first": COST[:1], "values_first": np.ones((5, 1)) * 0.1}, "second evaluation"),
    ],
)
def test_questions_without_an_answer_are_refused(arguments: dict, message: str) -> None:
    usual = {
        "cost_first": COST,
        "values_first": curves(0),
        "cost_baseline": COST,
        "values_baseline": curves(1),
        "span": WHOLE,
    }
    with pytest.raises(ValueError, match=message):
        speed_up(**{**usual, **arguments})
