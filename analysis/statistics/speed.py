"""How many times cheaper one method learns than a baseline, from whole learning curves of few seeds.

Each method's curve is its mean over seeds, made to rise by isotonic regression up to its highest point; its cost to
a target is where this curve first reaches it. A speed-up is the geometric mean of the ratios of both costs over a
range of targets, given as shares of the baseline's own gain. A single target rests on where two noisy curves cross
one line; a range averages that noise away and says what happened along the curve.

The interval is Student's t on the logarithm, with each method's variance from leaving out one seed at a time
(jackknife; the targets move with the baseline) and Welch's degrees of freedom, a little fewer than for normal seeds.
`docs/statistics.md` says how far it was found to hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import t as student

from analysis.statistics import check_confidence, satterthwaite

Floats = NDArray[np.float64]

_POINTS_A_SHARE = 40
"""Targets in a range, per unit of share: closer ones change no estimate by a tenth of its interval."""

_OPEN = math.log(1e6)
"""A limit this many times beyond the estimate bounds nothing and is given as zero or infinity."""

_KURTOSIS = 0.5
"""Excess kurtosis of what a seed adds to a logarithm of costs: that of normal seeds is 0."""

_CLEAR = 0.9
"""Confidence, to one side, with which a mean curve must pass the last target for its cost to have an upper limit."""

ONE_SEED = "One seed has no spread: an interval needs at least two."
NO_SPREAD = "All seeds are alike, so they show no spread to build an interval on."


class Span(NamedTuple):
    """A range of targets, as shares of the baseline's gain."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A ratio with its interval over seeds, and how far to believe it.

    `value` is 0 where the method does not get through the targets. `low` and `high` are NaN where there is no interval,
    zero and infinite where the data bound only one side. Of the logarithm, `spread` is the standard deviation over
    seeds of the method and of the baseline, and `error` the standard error. `seeds` is the smaller number of both.
    `why` says what is the matter where something is.
    """

    value: float
    low: float
    high: float
    seeds: int
    confidence: float = 0.95
    spread: tuple[float, float] = (math.nan, math.nan)
    error: float = math.nan
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval; False when there is none."""
        return self.known and not self.low <= value <= self.high


def speed_up(
    cost_first: ArrayLike,
    values_first: ArrayLike,
    cost_baseline: ArrayLike,
    values_baseline: ArrayLike,
    span: Span,
    *,
    confidence: float = 0.95,
    comparisons: int = 1,
) -> Estimate:
    """How many times less the first method spends than the baseline over a span of targets: above 1 it is faster.

    Values are (seeds, time), costs (time,) or (seeds, time) from 0 at the base model's evaluation. With several
    `comparisons` the interval is widened (Bonferroni) so that all of them hold together at `confidence`.

    A method that does not get through the span, or by less than its seeds may account for, has a cost that nothing
    limits above. Then the lower limit is 0: it may be found slower, never faster. Raises `ValueError` where the
    baseline's mean curve does not end above its start: it sets no target.
    """
    check_confidence(confidence)
    if not 0 < span.low <= span.high <= 1:
        raise ValueError(f"span must be shares of the baseline's gain, as in (0.25, 0.85), not {tuple(span)}")
    if comparisons < 1:
        raise ValueError(f"comparisons must be 1 or more, not {comparisons}: count this one too")
    cost, values = _on_one_grid(cost_first, values_first)
    cost_base, values_base = _on_one_grid(cost_baseline, values_baseline)
    mean, base = values.mean(axis=0), values_base.mean(axis=0)
    if not base[-1] > max(base[0], mean[0]):
        raise ValueError(
            f"the baseline ends at {base[-1]:g}, no higher than where the curves start "
            f"({base[0]:g} and {mean[0]:g}): it sets no target"
        )
    counts = len(values), len(values_base)
    ratio = _log_ratio(mean, base, cost, cost_base, span)
    value = math.exp(ratio.log) if ratio.reached else 0.0
    if min(counts) < 2:
        return Estimate(value, math.nan, math.nan, 1, confidence, why=ONE_SEED)
    ours = [_log_ratio(each, base, cost, cost_base, span) for each in _without_each(values)]
    theirs = [_log_ratio(mean, each, cost, cost_base, span) for each in _without_each(values_base)]
    variances = [_jackknife([entry.log for entry in entries]) for entries in (ours, theirs)]
    spread = math.sqrt(variances[0] * counts[0]), math.sqrt(variances[1] * counts[1])
    error = math.sqrt(sum(variances))
    if not error > 0:
        return Estimate(value, math.nan, math.nan, min(counts), confidence, spread, 0.0, NO_SPREAD)
    level = 1 - (1 - confidence) / comparisons
    width = float(student.ppf((1 + level) / 2, _freedom(variances, counts))) * error
    arrives = all(entry.reached for entry in (ratio, *ours, *theirs)) and _clear(ratio, ours, theirs)
    low = math.exp(ratio.log - width) if arrives and width < _OPEN else 0.0
    high = math.exp(ratio.log + width) if width < _OPEN else math.inf
    short = f"Its mean curve does not get through {span.low:.0%} to {span.high:.0%} of the baseline's gain."
    return Estimate(value, low, high, min(counts), confidence, spread, error, "" if ratio.reached else short)


def mean_cost(cost: ArrayLike, values: ArrayLike, targets: ArrayLike) -> float:
    """Geometric mean over targets of the cost at which the mean curve, made to rise, reaches them; inf if never."""
    at, heights = _on_one_grid(cost, values)
    logs, reached = _log_costs(at, heights.mean(axis=0), np.asarray(targets, dtype=np.float64))
    return float(np.exp(logs.mean())) if reached else math.inf


def span_targets(span: Span, start: float, end: float) -> Floats:
    """The targets of a span, (targets,), for a baseline that went from `start` to `end`."""
    points = max(round(_POINTS_A_SHARE * (span.high - span.low)), 1)
    return np.asarray(start + np.linspace(span.low, span.high, points) * (end - start))


def _on_one_grid(cost: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    """Costs (time,) and values (seeds, time), checked.

    Seeds may have spent a little more or less each: they are interpolated at the mean costs that all reached.
    """
    heights, at = np.asarray(values, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if heights.ndim != 2 or not heights.size:
        raise ValueError(f"values must be (seeds, time) with at least one of each, not {heights.shape}")
    if at.shape not in (heights.shape, heights.shape[1:]):
        raise ValueError(
            f"cost must be (time,) or (seeds, time) like the values {heights.shape}, not {at.shape}"
        )
    for name, array in (("values", heights), ("cost", at)):
        if bad := int((~np.isfinite(array)).sum()):
            raise ValueError(
                f"{name} has {bad} entries of {array.size} that are NaN or infinite: leave out those seeds (and say "
                "so), or cut all curves to the evaluations that every seed has"
            )
    if (np.diff(at, axis=-1) < 0).any():
        raise ValueError("cost falls along the curve: it must be cumulative, in the order it was spent")
    at = np.broadcast_to(at, heights.shape)
    if (at[:, 0] != 0).any():
        raise ValueError(f"costs start at {at[:, 0].max():g}: count them from 0, the base model's evaluation")
    if at.shape[1] < 2 or not (at[:, 1] > 0).all():
        raise ValueError("a curve needs a second evaluation, at a cost above 0, to show what was spent")
    if (at == at[0]).all():
        return at[0], heights
    grid = np.minimum(at.mean(axis=0), at[:, -1].min())
    return grid, np.stack([np.interp(grid, own, row) for own, row in zip(at, heights, strict=True)])


def _without_each(values: Floats) -> Floats:
    """Mean curves without each of the seeds, (seeds, time)."""
    return np.asarray((values.sum(axis=0) - values) / (len(values) - 1))


class _Ratio(NamedTuple):
    """Mean over the targets of log(baseline's cost / method's cost), and whether both reach them all.

    An unreached target counts at the last cost, which is less than it would take. `margin` is how far the method's
    highest point lies above the last target.
    """

    log: float
    reached: bool
    margin: float


def _log_ratio(first: Floats, baseline: Floats, cost: Floats, baseline_cost: Floats, span: Span) -> _Ratio:
    targets = span_targets(span, float(baseline[0]), float(baseline[-1]))
    own, arrives = _log_costs(cost, first, targets)
    other, sets = _log_costs(baseline_cost, baseline, targets)
    reached = arrives and sets and bool(baseline[-1] > baseline[0])
    return _Ratio(float((other - own).mean()), reached, float(first.max() - targets[-1]))


def _log_costs(cost: Floats, mean: Floats, targets: Floats) -> tuple[Floats, bool]:
    """Logarithm of the cost at which a mean curve, made to rise, reaches each target, and whether it reaches all.

    What comes after the highest point is left out: a later loss does not undo that a target was reached.
    """
    top = int(mean.argmax()) + 1
    rising = isotonic_regression(mean[:top]).x
    # From the top down, so that a target on a level stretch is reached where that begins.
    at = np.interp(-targets, -rising[::-1], cost[:top][::-1], left=cost[-1])
    if top == 1:
        at = np.full(targets.shape, cost[-1])
    return np.log(np.maximum(at, 1e-9 * cost[-1])), top > 1 and bool((targets <= rising[-1]).all())


def _clear(ratio: _Ratio, ours: list[_Ratio], theirs: list[_Ratio]) -> bool:
    """Whether the method passes the last target by more than its own and the baseline's seeds may account for."""
    variances = [_jackknife([entry.margin for entry in entries]) for entries in (ours, theirs)]
    if not sum(variances) > 0:
        return ratio.margin >= 0
    freedom = _freedom(variances, (len(ours), len(theirs)))
    return ratio.margin > float(student.ppf(_CLEAR, freedom)) * math.sqrt(sum(variances))


def _jackknife(without_each: Sequence[float]) -> float:
    """Variance of an estimate from one method's seeds: from what it is without each of them."""
    return float((len(without_each) - 1) * np.var(without_each))


def _freedom(variances: Sequence[float], seeds: Sequence[int]) -> float:
    """Welch's degrees of freedom of the sum of two methods' variances, with `_KURTOSIS` in each variance's own."""
    return satterthwaite(variances, [2 / (2 / (n - 1) + _KURTOSIS / n) for n in seeds])
