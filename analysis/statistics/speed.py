"""How many times cheaper one method reaches a target than another, with an interval over few seeds.

Each method's curve is its mean over seeds, made to rise by isotonic regression up to its highest point, and
its cost is where this curve reaches the target. A single seed's first crossing would be early by the noise of
its evaluations and unknown for every seed that never crosses; the mean's is much less so.

The interval: each mean curve is moved up and down by one standard error; how much earlier or later it then
reaches the target, as a logarithm, is the error of its cost on either side. The errors of the two methods are
combined by the root of their squares, times Student's t with Welch's degrees of freedom. (Zou and Donner,
Statistics in Medicine 27, 2008, combine limits in this way.) Where the curves are straight this is Welch's
interval of the log cost; where they flatten it is lopsided, as it should be, and where a moved curve never
reaches the target that side is open: zero, or infinite. Paired seeds move together, so there both sides take
the mean of their errors, and what the seeds share is taken off by their correlation. `docs/statistics.md`
compares the interval with others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from scipy.special import stdtrit

from analysis.statistics.estimates import NO_SPREAD, ONE_SEED, Estimate, bootstrap
from analysis.statistics.metrics import cost_to_target, curves

Floats = NDArray[np.float64]

METHODS = ("shift", "bootstrap")

_OPEN = 1e6
"""A limit this many times beyond the estimate bounds nothing and is given as zero or infinity."""

_ARC = np.linspace(0, np.pi / 2, 61)


def speed_up(
    cost_first: ArrayLike,
    values_first: ArrayLike,
    cost_baseline: ArrayLike,
    values_baseline: ArrayLike,
    target: float,
    rng: np.random.Generator,
    paired: bool = False,
    *,
    confidence: float = 0.95,
    comparisons: int = 1,
    method: str = "shift",
    resamples: int = 2000,
) -> Estimate:
    """How many times less the first method spends to reach `target`: above 1 it is faster.

    Values are (seeds, time), costs (time,) or (seeds, time) from 0 at the base model's evaluation. With
    `paired`, row k of both is the same seed. With several `comparisons` the interval is widened (Bonferroni)
    so that all of them hold together at `confidence`, and `how` says so. `method` is "shift" (the module's
    text) or "bootstrap" (percentile bootstrap of the same ratio, which draws from `rng`; the other does not).

    A mean curve that never reaches the target leaves its cost unknown above its last one. Then the ratio is 0
    (the first never does) below an upper limit, infinite (the baseline never does) above a lower limit, or
    NaN between 0 and infinity (neither does); `trusted` is False and `why` says so. The limits then come
    from all pairs of shifts by z and z' standard errors with z² + z'² at most the squared quantile of
    Student's t. Raises `ValueError` if the target is no higher than where a mean curve starts.
    """
    _check_options(confidence, comparisons, method)
    first = _common(cost_first, values_first)
    baseline = _common(cost_baseline, values_baseline)
    if paired and len(first.values) != len(baseline.values):
        raise ValueError(
            f"paired curves need the same seeds: {len(first.values)} and {len(baseline.values)} of them"
        )
    _check_start(first, "the first", target)
    _check_start(baseline, "the baseline", target)
    level = 1 - (1 - confidence) / comparisons
    if method == "bootstrap":
        found = _bootstrapped(first, baseline, target, rng, paired, level, resamples)
    else:
        found = _shifted(_rising(first), _rising(baseline), target, paired, level)
    together = f", widened so that {comparisons} comparisons hold together" if comparisons > 1 else ""
    return replace(found, confidence=confidence, how=found.how + together)


def mean_cost_to_target(cost: ArrayLike, values: ArrayLike, target: float) -> float:
    """Cost at which the mean curve, made to rise, reaches `target`: what `speed_up` compares; inf if never."""
    return _rising(_common(cost, values)).reaches(target)


def log_cost_spread(cost: ArrayLike, values: ArrayLike, target: float) -> float:
    """Standard deviation over seeds of the log cost to `target`, as the mean curve implies it.

    The mean of its errors on both sides (module's text) times the root of the number of seeds. NaN with one
    seed, or where the mean curve, moved by a standard error, never reaches the target or starts above it.
    """
    common = _common(cost, values)
    if len(common.values) < 2:
        return math.nan
    _check_start(common, "the method", target)
    rising = _rising(common)
    if math.isinf(rising.reaches(target)):
        return math.nan
    reached = _reached(rising, target).even
    return reached.late * math.sqrt(reached.seeds) if math.isfinite(reached.late) else math.nan


def cost_share(first: float, baseline: float) -> float:
    """The baseline's part of both costs: their ratio on a scale without infinity, 1/2 if neither arrives."""
    if math.isinf(first) or math.isinf(baseline):
        return (1 + math.isinf(baseline) - math.isinf(first)) / 2
    return baseline / (baseline + first)


def share_to_ratio(share: float) -> float:
    """The ratio of costs of which `share` is `cost_share`."""
    return share / (1 - share) if share < 1 else math.inf


@dataclass(frozen=True)
class _Curves:
    """Curves of a method's seeds at common costs: `cost` (time,), `values` (seeds, time)."""

    cost: Floats
    values: Floats

    def moved(self, shift: float) -> Floats:
        """The mean curve moved up by `shift` standard errors, (time,)."""
        mean: Floats = self.values.mean(axis=0)
        if shift == 0:
            return mean
        error: Floats = self.values.std(axis=0, ddof=1) / math.sqrt(len(self.values))
        return mean + shift * error

    def reaches(self, target: float, shift: float = 0.0) -> float:
        """Cost at which the moved mean curve reaches `target`, infinite if it never does."""
        return float(cost_to_target(self.cost, self.moved(shift)[None], target)[0])


@dataclass(frozen=True)
class _Reached:
    """Cost at which a mean curve reaches a target, and the errors of its logarithm on either side."""

    cost: float
    early: float
    late: float
    seeds: int

    @property
    def even(self) -> _Reached:
        """With the mean of both errors on either side, unless a side is open."""
        mean = (self.early + self.late) / 2
        return replace(self, early=mean, late=mean) if math.isfinite(mean) else self


def _reached(rising: _Curves, target: float) -> _Reached:
    cost, early, late = (rising.reaches(target, shift) for shift in (0.0, 1.0, -1.0))
    return _Reached(
        cost,
        early=math.log(cost / early) if early > 0 else math.inf,
        late=math.log(late / cost) if math.isfinite(late) else math.inf,
        seeds=len(rising.values),
    )


def _common(cost: ArrayLike, values: ArrayLike) -> _Curves:
    """Seeds may have spent a little more or less each: interpolate them at the mean costs that all reached."""
    at, heights = curves(cost, values)
    if (at[:, 0] != 0).any():
        raise ValueError(f"costs start at {at[:, 0].max():g}: count them from 0, the base model's evaluation")
    if at.shape[1] < 2 or not (at[:, 1] > 0).all():
        raise ValueError("a curve needs a second evaluation, at a cost above 0, to show what was spent")
    if (at == at[0]).all():
        return _Curves(at[0], heights)
    grid = np.minimum(at.mean(axis=0), at[:, -1].min())
    rows = [np.interp(grid, own, row) for own, row in zip(at, heights, strict=True)]
    return _Curves(grid, np.stack(rows))


def _rising(common: _Curves) -> _Curves:
    """The curves averaged in the blocks in which their mean must be averaged to rise up to its highest point.

    What comes after that point is left as it is: what a method loses after it has reached the target does
    not unmake that it reached it.
    """
    mean = common.moved(0.0)
    top = int(mean.argmax()) + 1
    blocks = isotonic_regression(mean[:top]).blocks
    starts = np.concatenate([blocks[:-1], np.arange(top, len(mean))])
    sizes = np.diff(starts, append=len(mean))
    averages = np.add.reduceat(common.values, starts, axis=1) / sizes
    return replace(common, values=np.repeat(averages, sizes, axis=1))


def _check_options(confidence: float, comparisons: int, method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; 0.95 is usual")
    if comparisons < 1:
        raise ValueError(f"comparisons must be 1 or more, not {comparisons}: count this one too")


def _check_start(common: _Curves, name: str, target: float) -> None:
    if not math.isfinite(target):
        raise ValueError(f"target must be a finite value, not {target}")
    start = float(common.moved(0.0)[0])
    if not target > start:
        raise ValueError(
            f"target {target:g} is no higher than where the curves of {name} start ({start:g}): it is reached "
            "at no cost; choose one between the start and the end"
        )


def _shifted(first: _Curves, baseline: _Curves, target: float, paired: bool, confidence: float) -> Estimate:
    seeds = min(len(first.values), len(baseline.values))
    value, why = _ratio(first, baseline, target)
    how = f"mean curves moved by their standard errors, Student's t over {'paired ' if paired else ''}seeds"
    if seeds < 2:
        return Estimate(value, math.nan, math.nan, seeds, confidence, how, False, ONE_SEED)
    if why:
        low, high = _bounds(first, baseline, target, float(stdtrit(seeds - 1, (1 + confidence) / 2)))
        return Estimate(value, low, high, seeds, confidence, how, False, why)
    one, other = _reached(first, target), _reached(baseline, target)
    correlation = _correlation(first, baseline, target) if paired else None
    if paired:
        one, other = one.even, other.even
    down = _factor(other.early, one.late, one.seeds, other.seeds, correlation, confidence)
    up = _factor(other.late, one.early, one.seeds, other.seeds, correlation, confidence)
    if down == up == 1:
        why = NO_SPREAD
    return Estimate(value, value / down, value * up, seeds, confidence, how, not why, why)


def _ratio(first: _Curves, baseline: _Curves, target: float) -> tuple[float, str]:
    """The ratio of the mean curves' costs, and what is the matter if it is only a bound."""
    spent, other = first.reaches(target), baseline.reaches(target)
    if math.isfinite(spent) and math.isfinite(other):
        return other / spent, ""
    never = f"mean curve never reaches {target:.4g}, so only"
    if math.isfinite(spent):
        return math.inf, f"The baseline's {never} a lower limit is known."
    if math.isfinite(other):
        return 0.0, f"The first method's {never} an upper limit is known."
    return math.nan, f"Neither mean curve reaches {target:.4g}, so nothing is known of the ratio."


def _factor(
    error: float, other: float, first: int, baseline: int, correlation: float | None, confidence: float
) -> float:
    """How many times a limit lies beyond the estimate: errors of the log costs combined; infinite if open."""
    if not math.isfinite(error + other):
        return math.inf
    shares = other**2, error**2
    total = sum(shares)
    freedom = first - 1.0
    if correlation is not None:
        total = max(total - 2 * correlation * error * other, 0.0)
    elif total > 0:
        freedom = total**2 / (shares[0] ** 2 / (first - 1) + shares[1] ** 2 / (baseline - 1))
    width = float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(total)
    return math.exp(width) if width < math.log(_OPEN) else math.inf


def _correlation(first: _Curves, baseline: _Curves, target: float) -> float:
    """Correlation over seeds of the methods' values where their mean curves reach the target."""
    one, other = _at_target(first, target), _at_target(baseline, target)
    product = math.sqrt(float(one @ one) * float(other @ other))
    return float(np.clip(one @ other / product, -1, 1)) if product > 0 else 0.0


def _at_target(rising: _Curves, target: float) -> Floats:
    """Deviation of each seed from the mean where the mean reaches the target, (seeds,)."""
    at = rising.reaches(target)
    heights = np.array([np.interp(at, rising.cost, row) for row in rising.values])
    return heights - heights.mean()


def _bounds(first: _Curves, baseline: _Curves, target: float, quantile: float) -> tuple[float, float]:
    """Limits of the ratio where a mean curve never reaches the target: its cost lies above its last one."""
    down, up = quantile * np.cos(_ARC), quantile * np.sin(_ARC)
    early, late = _costs(baseline, target, down), _costs(first, target, -up)
    low = np.min(np.minimum(early, baseline.cost[-1]) / late)
    early, late = _costs(first, target, up), _costs(baseline, target, -down)
    spent = np.minimum(early, first.cost[-1])
    high = np.max(np.divide(late, spent, out=np.full_like(late, np.inf), where=spent > 0))
    return float(low), float(high)


def _costs(rising: _Curves, target: float, shifts: Floats) -> Floats:
    return cost_to_target(rising.cost, np.stack([rising.moved(shift) for shift in shifts]), target)


def _bootstrapped(
    first: _Curves,
    baseline: _Curves,
    target: float,
    rng: np.random.Generator,
    paired: bool,
    confidence: float,
    resamples: int,
) -> Estimate:
    def share(values: Floats, other: Floats) -> float:
        spent = _rising(replace(first, values=values)).reaches(target)
        return cost_share(spent, _rising(replace(baseline, values=other)).reaches(target))

    value, why = _ratio(_rising(first), _rising(baseline), target)
    found = bootstrap(
        share,
        first.values,
        baseline.values,
        rng=rng,
        paired=paired,
        confidence=confidence,
        resamples=resamples,
    )
    low, high = share_to_ratio(found.low), share_to_ratio(found.high)
    return replace(
        found, value=value, low=low, high=high, trusted=found.trusted and not why, why=why or found.why
    )
