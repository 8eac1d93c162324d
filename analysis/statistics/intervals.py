"""Intervals of means and differences over seeds, their p-values, and corrections for several of them.

A benchmark has few seeds, so every interval here is Student's t: exact for normal seeds whatever their
number, and honest about how little three of them say (at n = 3 the 95 % quantile is 4.30 instead of 1.96).
One seed has no spread, so its interval is NaN: shown as "no interval", never as zero width.

Two methods are compared by Welch's interval, which allows each its own spread. Runs that share a seed share
prompts and noise; where that makes their results agree, Welch's interval is too wide rather than too
narrow, and with three seeds it is still far narrower than the paired one, which has half the degrees of
freedom. `paired_difference` is there for many seeds. `tests/analysis/test_statistics.py` measures the
coverage of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval over `n` seeds; `low` and `high` are NaN when there is none."""

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    @property
    def known(self) -> bool:
        """Whether there were seeds enough (two) for an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def half_width(self) -> float:
        """Half the interval's width: the intervals of this module are symmetric about the mean."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside; False when there is no interval, or when it has no width to judge by."""
        spread = self.known and self.half_width > 1e-9 * abs(self.mean)
        return spread and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Difference:
    """The difference `first - second` of two groups of seeds, with the interval that decides about it."""

    first: str
    second: str
    interval: Interval
    seeds: tuple[int, int]

    @property
    def distinct(self) -> bool:
        """Whether the interval excludes zero: the two can be told apart."""
        return self.interval.excludes_zero


def _one_dimensional(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis (seeds), not shape {array.shape}")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; 0.95 is usual")


def half_width(std: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Floats:
    """Half-width of Student's interval from unbiased standard deviations and counts; NaN where n < 2."""
    _check_confidence(confidence)
    deviation, count = np.asarray(std, dtype=np.float64), np.asarray(n, dtype=np.float64)
    deviation, count = np.broadcast_arrays(deviation, count)
    enough = count >= 2
    safe = np.where(enough, count, 2.0)
    width = stdtrit(safe - 1, (1 + confidence) / 2) * deviation / np.sqrt(safe)
    return np.where(enough, width, np.nan)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean and Student's t interval of values that are one per seed.

    One value has a mean and no interval (NaN); no value has neither. A NaN among the values is not dropped:
    the mean becomes NaN too, because a missing seed is for the caller to leave out and to mention.
    """
    _check_confidence(confidence)
    array = _one_dimensional(values, "values")
    if array.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0, confidence)
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, math.nan, math.nan, 1, confidence)
    width = float(half_width(array.std(ddof=1), array.size, confidence))
    return Interval(mean, mean - width, mean + width, int(array.size), confidence)


def paired_gain(final: ArrayLike, base: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of `final - base` over seeds.

    `base` is one value (every seed started from the same evaluated model) or one per seed. With one shared
    value the interval is about the training seeds only: the base model's own value is taken as it was
    measured.
    """
    after = _one_dimensional(final, "final")
    before = np.asarray(base, dtype=np.float64)
    if before.ndim and before.shape != after.shape:
        raise ValueError(f"base must be one value or one per seed: {before.shape} against {after.shape}")
    return mean_interval(after - before, confidence)


def paired_difference(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of `first - second` where entry k of both is the same seed; needs many seeds to be narrow."""
    one, other = _one_dimensional(first, "first"), _one_dimensional(second, "second")
    if one.shape != other.shape:
        raise ValueError(f"paired values need the same seeds: {one.size} against {other.size} values")
    return mean_interval(one - other, confidence)


def welch_difference(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Interval:
    """Welch's interval of `mean(first) - mean(second)`; its `n` is the smaller number of seeds."""
    _check_confidence(confidence)
    one, other = _one_dimensional(first, "first"), _one_dimensional(second, "second")
    count = int(min(one.size, other.size))
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, 0, confidence)
    mean = float(one.mean() - other.mean())
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1, confidence)
    total, freedom = _welch(one, other)
    if not total > 0:  # no spread at all (or NaN): a width of zero, which `excludes_zero` does not trust
        return Interval(mean, mean - total, mean + total, count, confidence)
    width = float(stdtrit(freedom, (1 + confidence) / 2) * math.sqrt(total))
    return Interval(mean, mean - width, mean + width, count, confidence)


def _welch(one: Floats, other: Floats) -> tuple[float, float]:
    """Squared standard error of the difference of means, and its degrees of freedom (NaN without spread)."""
    share_one, share_other = one.var(ddof=1) / one.size, other.var(ddof=1) / other.size
    total = float(share_one + share_other)
    if not total > 0:
        return total, math.nan
    return total, float(total**2 / (share_one**2 / (one.size - 1) + share_other**2 / (other.size - 1)))


def p_value(first: ArrayLike, second: ArrayLike, paired: bool = False) -> float:
    """Two-sided p-value of equal means, of Welch's test or with `paired` of Student's on the differences.

    It is below 1 - confidence exactly where `welch_difference` (or `paired_difference`) excludes zero. NaN
    where there is no interval: fewer than two seeds, or no spread.
    """
    one, other = _one_dimensional(first, "first"), _one_dimensional(second, "second")
    if paired:
        mean, count = paired_difference(one, other).mean, one.size
        squared, freedom = ((one - other).var(ddof=1) / count if count > 1 else math.nan), count - 1.0
    elif min(one.size, other.size) < 2:
        return math.nan
    else:
        mean, (squared, freedom) = float(one.mean() - other.mean()), _welch(one, other)
    if not squared > 0 or math.sqrt(squared) <= 1e-9 * abs(mean):
        return math.nan
    return float(2 * stdtr(freedom, -abs(mean) / math.sqrt(squared)))


def holm(p_values: ArrayLike) -> Floats:
    """Holm's adjusted p-values: below 0.05 for those that hold together with a family-wise error of 5 %.

    The smallest is multiplied by the number of comparisons, the next by one less, and so on, never falling.
    Unknown ones (NaN) stay unknown and count as comparisons all the same.
    """
    raw = _one_dimensional(p_values, "p_values")
    if ((raw < 0) | (raw > 1)).any():
        raise ValueError(f"p-values must lie between 0 and 1, not {raw.tolist()}")
    order = np.argsort(raw)  # NaN last
    scaled = raw[order] * np.arange(raw.size, 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.fmax.accumulate(scaled), 1.0)
    return np.where(np.isnan(raw), np.nan, adjusted)


def pairwise_differences(groups: Mapping[str, ArrayLike], confidence: float = 0.95) -> list[Difference]:
    """Welch's interval of every pair, widened (Bonferroni) so that all of them hold together.

    The confidence is that of the whole family: with m methods each interval is drawn at 1 - (1 -
    confidence) / (m (m - 1) / 2), and "told apart" means that this interval excludes zero. The method that
    came first may therefore be picked after looking at the results.
    """
    _check_confidence(confidence)
    pairs = list(combinations(groups, 2))
    level = 1 - (1 - confidence) / max(len(pairs), 1)
    result = []
    for first, second in pairs:
        one, other = _one_dimensional(groups[first], first), _one_dimensional(groups[second], second)
        interval = welch_difference(one, other, level)
        result.append(Difference(first, second, interval, (int(one.size), int(other.size))))
    return result
