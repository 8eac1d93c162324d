"""Other intervals of a speed-up, which `speed_up` was chosen over: limits at 95 % for the simulation to compare.

Each takes the common cost, the values (seeds, time) of the first method and of the baseline, the target and a
generator, and returns the lower and the upper limit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from analysis.statistics.intervals import welch_difference
from analysis.statistics.metrics import cost_to_target
from analysis.statistics.speed import cost_share, mean_cost_to_target, share_to_ratio

Floats = NDArray[np.float64]
Limits = tuple[float, float]

RESAMPLES = 400


def seed_by_seed(
    cost: Floats, first: Floats, baseline: Floats, target: float, rng: np.random.Generator
) -> Limits:
    """Welch's interval of the log cost of each seed's own first crossing; those that never cross get the last."""
    del rng
    logs = [
        np.log(np.minimum(cost_to_target(cost, values, target), cost[-1])) for values in (first, baseline)
    ]
    interval = welch_difference(logs[1], logs[0])
    return math.exp(interval.low), math.exp(interval.high)


def jackknife(
    cost: Floats, first: Floats, baseline: Floats, target: float, rng: np.random.Generator
) -> Limits:
    """Student's t on the log cost of the mean curve, its variance from leaving out each seed in turn.

    A side is open where a mean curve without one of its seeds never arrives.
    """
    del rng
    share = _share(cost, first, baseline, target)
    if not 0 < share < 1:
        return 0.0, math.inf
    value = math.log(share_to_ratio(share))
    open_sides, variances = [], []
    for values in (first, baseline):
        spent = [
            mean_cost_to_target(cost, np.delete(values, seed, axis=0), target) for seed in range(len(values))
        ]
        open_sides.append(math.inf in spent)
        variances.append((len(values) - 1) * float(np.var(np.log(np.minimum(spent, cost[-1])))))
    total = sum(variances)
    shares = [
        share**2 / (len(values) - 1) for share, values in zip(variances, (first, baseline), strict=True)
    ]
    width = float(stdtrit(total**2 / sum(shares), 0.975)) * math.sqrt(total) if total > 0 else 0.0
    low = 0.0 if open_sides[0] else math.exp(value - width)
    return low, math.inf if open_sides[1] else math.exp(min(value + width, 700))


def bias_corrected(
    cost: Floats, first: Floats, baseline: Floats, target: float, rng: np.random.Generator
) -> Limits:
    """Bias-corrected accelerated bootstrap (BCa) of the ratio of the mean curves' costs."""
    from scipy import stats  # slow to load, and nothing else here needs it

    def share(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
        return _share(cost, first[one], baseline[other], target)

    seeds = np.arange(len(first)), np.arange(len(baseline))
    found = stats.bootstrap(
        seeds, share, n_resamples=RESAMPLES, vectorized=False, method="BCa", rng=rng
    ).confidence_interval
    return share_to_ratio(float(found.low)), share_to_ratio(float(found.high))


def expanded(
    cost: Floats, first: Floats, baseline: Floats, target: float, rng: np.random.Generator
) -> Limits:
    """Percentile bootstrap at quantiles moved outwards for few seeds (Hesterberg, 2015)."""
    seeds = min(len(first), len(baseline))
    shares = [
        _share(
            cost,
            first[rng.integers(len(first), size=len(first))],
            baseline[rng.integers(len(baseline), size=len(baseline))],
            target,
        )
        for _ in range(RESAMPLES)
    ]
    tail = float(ndtr(-math.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, 0.975)))
    low, high = np.quantile(shares, [tail, 1 - tail])
    return share_to_ratio(float(low)), share_to_ratio(float(high))


def _share(cost: Floats, first: Floats, baseline: Floats, target: float) -> float:
    return cost_share(*(mean_cost_to_target(cost, values, target) for values in (first, baseline)))
