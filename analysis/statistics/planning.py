"""How many seeds would show a speed-up: the power of Student's test on the logarithm of the cost.

The spread is that of the logarithm of the cost at which a seed's curve reaches the target, so a speed-up by a
factor is a shift by its logarithm, whatever the unit of cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import nctdtr, stdtrit

MOST_SEEDS = 1000
"""Where more seeds than this are needed, `seeds_needed` says None: no benchmark will run them."""


@dataclass(frozen=True)
class Plan:
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
    that of the other (the same if None); both methods have `seeds` seeds. The noncentral t distribution, with
    Welch's degrees of freedom.
    """
    other = spread if other_spread is None else other_spread
    _check(ratio, spread, other, confidence)
    if seeds < 2:
        return math.nan
    error = math.sqrt((spread**2 + other**2) / seeds)
    if error == 0:
        return 1.0 if ratio != 1 else 1 - confidence
    freedom = (seeds - 1) * (spread**2 + other**2) ** 2 / (spread**4 + other**4)
    shift = abs(math.log(ratio)) / error
    quantile = stdtrit(freedom, (1 + confidence) / 2)
    return float(1 - nctdtr(freedom, shift, quantile) + nctdtr(freedom, shift, -quantile))


def seeds_needed(
    ratio: float,
    spread: float,
    other_spread: float | None = None,
    power: float = 0.8,
    confidence: float = 0.95,
) -> Plan:
    """Fewest seeds per method with which a speed-up by `ratio` shows with probability `power`.

    `spread` and `other_spread` as in `power_of`.
    """
    if not 0 < power < 1:
        raise ValueError(f"power must lie between 0 and 1, not {power}; 0.8 is usual")
    if ratio == 1:
        raise ValueError("a ratio of 1 is no speed-up: no number of seeds shows it; 1.25 is a small one")
    low, high = 1, 2
    while power_of(ratio, high, spread, other_spread, confidence) < power:
        if high >= MOST_SEEDS:
            return Plan(ratio, power, None, power_of(ratio, MOST_SEEDS, spread, other_spread, confidence))
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        enough = power_of(ratio, middle, spread, other_spread, confidence) >= power
        low, high = (low, middle) if enough else (middle, high)
    return Plan(ratio, power, high, power_of(ratio, high, spread, other_spread, confidence))


def _check(ratio: float, spread: float, other: float, confidence: float) -> None:
    if not (ratio > 0 and math.isfinite(ratio)):
        raise ValueError(f"ratio must be a positive number such as 1.25, not {ratio}")
    if not (spread >= 0 and other >= 0 and math.isfinite(spread + other)):
        raise ValueError(f"spreads must be standard deviations, zero or more, not {spread} and {other}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; 0.95 is usual")
