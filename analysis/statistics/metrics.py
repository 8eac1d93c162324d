"""Metrics of learning curves, one number per seed, and two summaries that a wild seed moves little.

A curve is `values` (seeds, time) at `cost` (time,) or (seeds, time): iterations, seconds, whatever was spent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


def cost_to_target(cost: ArrayLike, values: ArrayLike, target: float) -> Floats:
    """Cost at which each curve first reaches `target`, (seeds,), by linear interpolation.

    Infinite where it never does. The first cost where the curve starts at the target or above.
    """
    if not np.isfinite(target):
        raise ValueError(f"target must be a finite value, not {target}")
    at, heights = curves(cost, values)
    reached = heights >= target
    row, first = np.arange(len(at)), reached.argmax(axis=1)
    before = np.maximum(first - 1, 0)
    low, high = heights[row, before], heights[row, first]
    share = np.divide(target - low, high - low, out=np.zeros_like(low), where=high > low)
    crossing = at[row, before] + share * (at[row, first] - at[row, before])
    return np.where(reached.any(axis=1), np.where(first == 0, at[:, 0], crossing), np.inf)


def interquartile_mean(values: ArrayLike, axis: int | tuple[int, ...] = -1) -> Floats:
    """Mean of the middle half along `axis`, or several together: a quarter, rounded down, is cut off at each end."""
    array = np.asarray(values, dtype=np.float64)
    _check(array, "values")
    axes = [place % array.ndim for place in np.atleast_1d(axis)]
    kept = [size for place, size in enumerate(array.shape) if place not in axes]
    last = np.moveaxis(array, axes, range(-len(axes), 0)).reshape(*kept, -1)
    return np.asarray(stats.trim_mean(last, 0.25, axis=-1))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Share of pairs in which a seed of `x` is above one of `y`, ties counted half: Mann-Whitney's U / nm."""
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check(first, "x")
    _check(second, "y")
    # Rewards are single precision, and means of equal ones differ in what lies below it: that is a tie.
    whole = np.round(np.concatenate([first, second]) / max(np.abs([*first, *second]).max(), 1e-300), 7)
    found = stats.mannwhitneyu(whole[: first.size], whole[first.size :], method="asymptotic")
    return float(found.statistic / (first.size * second.size))


def curves(cost: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    """Checked `cost` and `values`, both (seeds, time); raises `ValueError` where they are no curves."""
    heights, at = np.asarray(values, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if heights.ndim != 2 or not heights.size:
        raise ValueError(f"values must be (seeds, time) with at least one of each, not {heights.shape}")
    _check(heights, "values")
    _check(at, "cost")
    if at.shape not in (heights.shape, heights.shape[1:]):
        raise ValueError(
            f"cost must be (time,) or (seeds, time) like the values {heights.shape}, not {at.shape}"
        )
    if (np.diff(at, axis=-1) < 0).any():
        raise ValueError("cost falls along the curve: it must be cumulative, in the order it was spent")
    return np.broadcast_to(at, heights.shape), heights


def _check(array: Floats, name: str) -> None:
    if not array.size:
        raise ValueError(f"{name} is empty: at least one number is needed")
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(
            f"{name} has {int(bad.sum())} entries of {array.size} that are NaN or infinite: leave out those "
            "seeds (and say so), or cut all curves to the evaluations that every seed has"
        )
