"""How many seeds would show a speed-up: the power of Student's test on the logarithm of the cost.

The spread is that of the logarithm of the cost at which a seed's curve reaches the target, so a speed-up by a
factor is a shift by its logarithm, whatever the unit of cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, nctdtr, stdtrit

Floats = NDArray[np.float64]

MOST_SEEDS = 1000
"""Where more seeds than this are needed, `seeds_needed` says None: no benchmark will run them."""


_PLACES = (np.arange(64) + 0.5) / 64


@dataclass(frozen=True)
class SeedPlan:
    """Seeds per method that show a `ratio` of costs in a share `power` of repeated benchmarks.

    `seeds` is None where more than `MOST_SEEDS` would be needed. `reached` is the power at that number.
    """

    ratio: float
    power: float
    seeds: int | None
    reached: float


def power_of(
    ratio: float, seeds: int, spread: float, other_spread: float | None = None, confidence: float = 0.95
) -> float:
    """Chance that the interval excludes 1 when the true ratio of costs is `ratio`.

    `spread` is the standard deviation over seeds of the log cost to the target of one method, `other_spread`
    that of the other (the same if None); both methods have `seeds` seeds. The noncentral t distribution, and
    the quantile of Welch's test averaged over the spreads that so many seeds would show.
    """
    other = spread if other_spread is None else other_spread
    _check(ratio, spread, other, confidence)
    if seeds < 2:
        return math.nan
    error = math.sqrt((spread**2 + other**2) / seeds)
    if error == 0:
        return 1.0 if ratio != 1 else 1 - confidence
    shares = betaincinv((seeds - 1) / 2, (seeds - 1) / 2, _PLACES)  # of the first in both sums of squares
    freedom = _freedom(np.array(spread**2), np.array(other**2), seeds)
    quantile = stdtrit(_freedom(spread**2 * shares, other**2 * (1 - shares), seeds), (1 + confidence) / 2)
    shift = abs(math.log(ratio)) / error
    return float(np.mean(1 - nctdtr(freedom, shift, quantile) + nctdtr(freedom, shift, -quantile)))


def _freedom(variance: Floats, other: Floats, seeds: int) -> Floats:
    """Welch's degrees of freedom for two methods of `seeds` seeds each."""
    return np.asarray((seeds - 1) * (variance + other) ** 2 / (variance**2 + other**2))


def seeds_needed(ratio: float, spread: float, power: float = 0.8, confidence: float = 0.95) -> SeedPlan:
    """Fewest seeds per method with which a speed-up by `ratio` shows with probability `power`.

    `spread` is that of both methods, as in `power_of`.
    """
    if not 0 < power < 1:
        raise ValueError(f"power must lie between 0 and 1, not {power}; 0.8 is usual")
    if ratio == 1:
        raise ValueError("a ratio of 1 is no speed-up: no number of seeds shows it; 1.25 is a small one")
    low, high = 1, 2
    while power_of(ratio, high, spread, confidence=confidence) < power:
        if high >= MOST_SEEDS:
            return SeedPlan(ratio, power, None, power_of(ratio, MOST_SEEDS, spread, confidence=confidence))
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        enough = power_of(ratio, middle, spread, confidence=confidence) >= power
        low, high = (low, middle) if enough else (middle, high)
    return SeedPlan(ratio, power, high, power_of(ratio, high, spread, confidence=confidence))


def _check(ratio: float, spread: float, other: float, confidence: float) -> None:
    if not (ratio > 0 and math.isfinite(ratio)):
        raise ValueError(f"ratio must be a positive number such as 1.25, not {ratio}")
    if not (spread >= 0 and other >= 0 and math.isfinite(spread + other)):
        raise ValueError(f"spreads must be standard deviations, zero or more, not {spread} and {other}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; 0.95 is usual")
