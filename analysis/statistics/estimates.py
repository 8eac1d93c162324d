"""What an estimate is, and bootstrap intervals over seeds and over prompts.

The bootstrap asks nothing of the distribution and serves any statistic, but a handful of seeds cannot show it
the spread of the population: over three its "95 %" intervals hold less than 80 % of the time and over five less
than 90 % (docs/statistics.md). So an `Estimate` says whether its interval can be trusted.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FEWEST_FOR_BOOTSTRAP = 10
"""With fewer seeds a bootstrap interval is marked as not to be trusted."""

NO_SPREAD = "All seeds are alike, so they show no spread to build an interval on."
ONE_SEED = "One seed has no spread: an interval needs at least two."


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over seeds, and how far to believe it.

    `low` and `high` are NaN where there is no interval and may be infinite where the data bound only one
    side. `seeds` is the smallest number of seeds among the groups compared. `how` names the interval's
    construction for a caption. `trusted` is False where the interval cannot be expected to hold at its
    confidence, and `why` says in one sentence what is the matter.
    """

    value: float
    low: float
    high: float
    seeds: int
    confidence: float
    how: str
    trusted: bool = True
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval; False when there is none or when it has no width."""
        return self.known and self.high > self.low and not self.low <= value <= self.high


def bootstrap(
    statistic: Callable[..., Any],
    *samples: ArrayLike,
    rng: np.random.Generator,
    paired: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Estimate:
    """Percentile bootstrap interval of `statistic(*samples)` over seeds, axis 0 of each sample (seeds, ...).

    A statistic with a parameter `axis` (as `np.mean` has) is called once for all resamples, on arrays
    (resamples, seeds, ...) with `axis=1`; any other is called once for each. It must return one number per
    call or resample. With `paired` all samples are of the same seeds and are resampled together.
    """
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    _check_bootstrap(arrays, paired, confidence, resamples)
    value = np.asarray(statistic(*arrays), dtype=np.float64)
    if value.ndim:
        raise ValueError(f"the statistic must return one number for the seeds, not shape {value.shape}")
    seeds = min(len(array) for array in arrays)
    how = f"percentile bootstrap over {'pairs of ' if paired else ''}seeds, {resamples} resamples"
    if seeds < 2:
        return _unknown(float(value), seeds, confidence, how)
    places = [rng.integers(len(array), size=(resamples, len(array))) for array in arrays]
    chosen = [array[places[0] if paired else place] for array, place in zip(arrays, places, strict=True)]
    if "axis" in inspect.signature(statistic).parameters:
        drawn = np.asarray(statistic(*chosen, axis=1), dtype=np.float64)
    else:
        drawn = np.array([statistic(*parts) for parts in zip(*chosen, strict=True)], dtype=np.float64)
    if drawn.shape != (resamples,):
        raise ValueError(f"the statistic must return one number per resample, not shape {drawn.shape}")
    return _percentiles(float(value), drawn, seeds, confidence, how)


def bootstrap_prompts(
    first: ArrayLike,
    second: ArrayLike,
    *,
    rng: np.random.Generator,
    paired: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Estimate:
    """Interval of `mean(first) - mean(second)` when prompts, too, are a sample of those of interest.

    Both are (seeds, prompts) with the same prompts in the same order, so each resample draws seeds of each
    method (together with `paired`) and one set of prompts for both.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    _check_bootstrap([one, other], paired, confidence, resamples)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"both must be (seeds, prompts) of the same prompts: {one.shape} and {other.shape}")
    seeds, prompts = min(len(one), len(other)), one.shape[1]
    how = f"percentile bootstrap over seeds and {prompts} prompts, {resamples} resamples"
    value = float(one.mean() - other.mean())
    if seeds < 2 or prompts < 2:
        return _unknown(value, seeds, confidence, how)
    shares = _resampled_shares(prompts, resamples, rng)
    of_one = _resampled_shares(len(one), resamples, rng)
    of_other = of_one if paired else _resampled_shares(len(other), resamples, rng)
    means = np.einsum("rs,sp,rp->r", of_one, one, shares, optimize=True)
    means -= np.einsum("rs,sp,rp->r", of_other, other, shares, optimize=True)
    return _percentiles(value, means, seeds, confidence, how)


def _resampled_shares(size: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Share of each of `size` units in each resample, (resamples, size)."""
    return rng.multinomial(size, np.full(size, 1 / size), resamples) / size


def _percentiles(value: float, drawn: Floats, seeds: int, confidence: float, how: str) -> Estimate:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    why = ""
    if not low < high:
        why = NO_SPREAD
    elif seeds < FEWEST_FOR_BOOTSTRAP:
        why = f"A bootstrap over {seeds} seeds is too narrow: it needs at least {FEWEST_FOR_BOOTSTRAP}."
    return Estimate(value, float(low), float(high), seeds, confidence, how, not why, why)


def _unknown(value: float, seeds: int, confidence: float, how: str) -> Estimate:
    return Estimate(value, math.nan, math.nan, seeds, confidence, how, False, ONE_SEED)


def _check_bootstrap(arrays: list[Floats], paired: bool, confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; 0.95 is usual")
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, not {resamples}; 2000 is usual")
    if not arrays or any(array.ndim == 0 or not len(array) for array in arrays):
        raise ValueError("the bootstrap needs samples with at least one seed along axis 0")
    if any(not np.isfinite(array).all() for array in arrays):
        raise ValueError("samples hold NaN or infinite values: leave out those seeds and say so")
    if paired and len({len(array) for array in arrays}) > 1:
        raise ValueError(f"paired samples need the same seeds: {[len(array) for array in arrays]} seeds")
