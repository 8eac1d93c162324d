"""How many times cheaper one method reaches a target than another, with an interval over few seeds.

Each method's curve is its mean over seeds, made to rise by isotonic regression up to its highest point, and
its cost is where this curve reaches the target. A single seed's first crossing would be early by the noise of
its evaluations and unknown for every seed that never crosses; the mean's is neither.

The interval holds all ratios that the two mean curves allow when they are moved up or down within their
standard errors: by z and z' standard errors with z² + z'² <= q², q the quantile of Student's t with Welch's
degrees of freedom. Where the curves are straight near the target this is Welch's interval of the log
cost. Where they flatten it grows lopsided, as it should, and where a moved curve never reaches the target
the bound is the honest one: zero, or infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from scipy.special import stdtrit

from analysis.statistics.estimates import Estimate, bootstrap
from analysis.statistics.metrics import cost_to_target, curves

Floats = NDArray[np.float64]

METHODS = ("shift", "bootstrap")
_ANGLES = np.linspace(0, 2 * np.pi, 361)


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
    method: str = "shift",
    resamples: int = 2000,
) -> Estimate:
    """How many times less the first method spends to reach `target`: above 1 it is faster.

    Values are (seeds, time), costs (time,) or (seeds, time) from 0 at the base model's evaluation. With
    `paired`, row k of both is the same seed. `method` is "shift" (the module's text) or "bootstrap"
    (percentile bootstrap of the same ratio, which draws from `rng`; the other does not).

    A mean curve that never reaches the target leaves its cost unknown above its last one. Then the ratio is 0
    (the first never does) with the bound that the baseline's cost over the first's last cost gives, infinite
    (the baseline never does), or NaN between 0 and infinity (neither does); `trusted` is False and `why`
    says so. Raises `ValueError` if the target is no higher than where the curves start.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; 0.95 is usual")
    first = _common(cost_first, values_first)
    baseline = _common(cost_baseline, values_baseline)
    if paired and len(first.values) != len(baseline.values):
        raise ValueError(
            f"paired curves need the same seeds: {len(first.values)} and {len(baseline.values)} of them"
        )
    _check_start(first, baseline, target)
    if method == "bootstrap":
        return _bootstrapped(first, baseline, target, rng, paired, confidence, resamples)
    return _shifted(first, baseline, target, paired, confidence)


def log_cost_spread(cost: ArrayLike, values: ArrayLike, target: float) -> float:
    """Standard deviation over seeds of the log cost to `target`, as the mean curve's slope implies it.

    The seeds' spread around the mean curve where it reaches the target, over its slope there. NaN with one
    seed, or where the mean curve moved by one standard error either way starts above or never reaches it.
    """
    common = _common(cost, values)
    if len(common.values) < 2:
        return math.nan
    rising = _rising(common)
    return _log_error(rising, target) * math.sqrt(len(common.values))


@dataclass(frozen=True)
class _Curves:
    """Curves of a method's seeds at common costs: `cost` (time,), `values` (seeds, time)."""

    cost: Floats
    values: Floats

    @property
    def mean(self) -> Floats:
        return np.asarray(self.values.mean(axis=0))

    @property
    def error(self) -> Floats:
        """Standard error of the mean at each cost."""
        seeds = len(self.values)
        return np.asarray(self.values.std(axis=0, ddof=1) / math.sqrt(seeds))


def _common(cost: ArrayLike, values: ArrayLike) -> _Curves:
    """Seeds may have spent a little more or less each: interpolate them at the mean costs that all reached."""
    at, heights = curves(cost, values)
    if at[0, 0] < 0:
        raise ValueError(f"costs start at {at[0, 0]:g}: they are counted from 0, the base model's evaluation")
    if (at == at[0]).all():
        return _Curves(at[0], heights)
    grid = np.minimum(at.mean(axis=0), at[:, -1].min())
    rows = [np.interp(grid, own, row) for own, row in zip(at, heights, strict=True)]
    return _Curves(grid, np.stack(rows))


def _rising(common: _Curves) -> _Curves:
    """The curves averaged in the blocks in which their mean must be averaged to rise up to its highest point.

    After that point the mean falls in the same way. What a method loses after it has reached the target does
    not unmake that it reached it.
    """
    mean = common.mean
    top = int(mean.argmax()) + 1
    up = isotonic_regression(mean[:top]).blocks
    starts = [*up[:-1], *_falling_blocks(mean, top)]
    sizes = np.diff([*starts, len(mean)])
    blocks = np.add.reduceat(common.values, starts, axis=1) / sizes
    return replace(common, values=np.repeat(blocks, sizes, axis=1))


def _falling_blocks(mean: Floats, top: int) -> list[int]:
    if top == len(mean):
        return []
    return [top + int(start) for start in isotonic_regression(mean[top:], increasing=False).blocks[:-1]]


def _check_start(first: _Curves, baseline: _Curves, target: float) -> None:
    if not np.isfinite(target):
        raise ValueError(f"target must be a finite value, not {target}")
    for name, common in (("first", first), ("baseline", baseline)):
        start = common.mean[0]
        if not target > start:
            raise ValueError(
                f"target {target:g} is no higher than where the curves of the {name} start ({start:g}): it is "
                "reached at no cost; choose one between the start and the end"
            )


def _shifted_cost(rising: _Curves, target: float, shifts: Floats) -> Floats:
    """Cost to the target of the mean curve moved up by each of `shifts` standard errors; inf where never."""
    moved = rising.mean + shifts[:, None] * rising.error
    return cost_to_target(rising.cost, moved, target)


def _log_error(rising: _Curves, target: float) -> float:
    """Standard error of the log cost: half of what moving the mean by a standard error each way makes."""
    early, late = _shifted_cost(rising, target, np.array([1.0, -1.0]))
    return math.nan if early <= 0 or not math.isfinite(late) else (math.log(late) - math.log(early)) / 2


def _shifted(first: _Curves, baseline: _Curves, target: float, paired: bool, confidence: float) -> Estimate:
    seeds = min(len(first.values), len(baseline.values))
    rising_first, rising_baseline = _rising(first), _rising(baseline)
    value, why = _ratio(rising_first, rising_baseline, target)
    how = (
        f"mean curves moved within their standard errors, Student's t over {'paired ' if paired else ''}seeds"
    )
    if seeds < 2:
        why = "One seed has no spread: an interval needs at least two."
        return Estimate(value, math.nan, math.nan, seeds, confidence, how, False, why)
    freedom = seeds - 1.0 if paired else _freedom(rising_first, rising_baseline, target)
    correlation = _correlation(rising_first, rising_baseline, target) if paired else 0.0
    radius = float(stdtrit(freedom, (1 + confidence) / 2))
    of_first = radius * np.cos(_ANGLES)
    of_baseline = radius * (correlation * np.cos(_ANGLES) + math.sqrt(1 - correlation**2) * np.sin(_ANGLES))
    spent = _shifted_cost(rising_first, target, of_first)
    baseline_spent = _shifted_cost(rising_baseline, target, of_baseline)
    last, baseline_last = first.cost[-1], baseline.cost[-1]
    lows = _divided(np.where(np.isfinite(baseline_spent), baseline_spent, baseline_last), spent)
    highs = _divided(baseline_spent, np.where(np.isfinite(spent), spent, last))
    low, high = min(value if value == value else np.inf, lows.min()), np.nanmax([value, highs.max()])
    if not why and low == high:
        why = "All seeds are alike, so they show no spread to build an interval on."
    return Estimate(value, float(low), float(high), seeds, confidence, how, not why, why)


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    """Ratio of costs: x / inf is 0, inf / x and x / 0 are inf."""
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.inf)


def _ratio(first: _Curves, baseline: _Curves, target: float) -> tuple[float, str]:
    """The ratio of the mean curves, and what is the matter if it is only a bound."""
    spent = (
        float(_shifted_cost(first, target, np.zeros(1))[0])
        if len(first.values) > 1
        else _single(first, target)
    )
    other = (
        float(_shifted_cost(baseline, target, np.zeros(1))[0])
        if len(baseline.values) > 1
        else _single(baseline, target)
    )
    if math.isfinite(spent) and math.isfinite(other):
        return other / spent, ""
    if math.isfinite(spent):
        return (
            math.inf,
            f"The baseline's mean curve never reaches {target:.4g}, so there is only a lower bound.",
        )
    if math.isfinite(other):
        return (
            0.0,
            f"The first method's mean curve never reaches {target:.4g}, so there is only an upper bound.",
        )
    return math.nan, f"Neither mean curve reaches {target:.4g}, so nothing is known of their ratio."


def _single(common: _Curves, target: float) -> float:
    return float(cost_to_target(common.cost, common.mean[None], target)[0])


def _freedom(first: _Curves, baseline: _Curves, target: float) -> float:
    """Welch's degrees of freedom of the log ratio; the smallest possible where a slope cannot be had."""
    shares = np.array([_log_error(first, target) ** 2, _log_error(baseline, target) ** 2])
    counts = np.array([len(first.values) - 1, len(baseline.values) - 1])
    if not np.isfinite(shares).all() or not shares.sum() > 0:
        return float(counts.min())
    return float(shares.sum() ** 2 / (shares**2 / counts).sum())


def _correlation(first: _Curves, baseline: _Curves, target: float) -> float:
    """Correlation over seeds of the two methods' values where their mean curves reach the target."""
    one, other = _at_target(first, target), _at_target(baseline, target)
    product = math.sqrt(float(one @ one) * float(other @ other))
    return float(np.clip(one @ other / product, -1, 1)) if product > 0 else 0.0


def _at_target(rising: _Curves, target: float) -> Floats:
    """Deviation of each seed from the mean where the mean reaches the target (at the end if never), (seeds,)."""
    at = min(_single(rising, target), rising.cost[-1])
    heights = np.array([np.interp(at, rising.cost, row) for row in rising.values])
    return heights - heights.mean()


def _bootstrapped(
    first: _Curves,
    baseline: _Curves,
    target: float,
    rng: np.random.Generator,
    paired: bool,
    confidence: float,
    resamples: int,
) -> Estimate:
    def ratio(values: Floats, other: Floats) -> float:
        spent = _single(_rising(replace(first, values=values)), target)
        baseline_spent = _single(_rising(replace(baseline, values=other)), target)
        if math.isinf(spent):
            return 0.0 if math.isfinite(baseline_spent) else 1.0
        return baseline_spent / spent

    value, why = _ratio(_rising(first), _rising(baseline), target)
    found = bootstrap(
        ratio,
        first.values,
        baseline.values,
        rng=rng,
        paired=paired,
        confidence=confidence,
        resamples=resamples,
    )
    return replace(found, value=value, trusted=found.trusted and not why, why=why or found.why)
