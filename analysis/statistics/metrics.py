"""Metrics of learning curves, one number per seed, and two summaries that a wild seed moves little.

A curve is `values` (seeds, time) at `cost` (time,) or (seeds, time): iterations, seconds, whatever was spent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def final_value(values: ArrayLike) -> Floats:
    """Last value of each curve: `values` (seeds, time) to (seeds,)."""
    return _values(values)[:, -1].copy()


def area_under_curve(cost: ArrayLike, values: ArrayLike, upto: float | None = None) -> Floats:
    """Mean height of each curve from its first cost to `upto` (its last by default), (seeds,).

    The integral by the trapezoid rule over that range, divided by the range's width, so that it has the
    values' unit; the curve is interpolated at `upto`. NaN for a curve that ends before.
    """
    at, heights = curves(cost, values)
    end = at[:, -1] if upto is None else np.full(len(at), float(upto))
    width = end - at[:, 0]
    if not (width > 0).all():
        raise ValueError(
            f"the area needs a range of costs: from {at[:, 0].max():g} to {end[width.argmin()]:g} is none"
        )
    inside = np.minimum(at, end[:, None])
    heights = np.stack([np.interp(new, old, row) for new, old, row in zip(inside, at, heights, strict=True)])
    area = np.trapezoid(heights, inside, axis=1) / width
    return np.where(at[:, -1] >= end, area, np.nan)


def cost_to_target(cost: ArrayLike, values: ArrayLike, target: float) -> Floats:
    """Cost at which each curve first reaches `target`, (seeds,), by linear interpolation.

    Infinite where it never does: such a seed is censored, all that is known is that it needs more than the
    curve's last cost. The first cost where the curve starts at the target or above.
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


def interquartile_mean(values: ArrayLike, axis: int = 0) -> Floats:
    """Mean of the middle half along `axis`, as `scipy.stats.trim_mean`: a quarter is cut off at each end.

    The number cut off is rounded down, so of three values none is, and of five one at each end.
    """
    array = np.asarray(values, dtype=np.float64)
    _check(array, "values")
    ordered = np.sort(np.moveaxis(array, axis, -1), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def probability_of_improvement(x: ArrayLike, y: ArrayLike, axis: int = 0) -> Floats:
    """Share of pairs in which a seed of `x` is above one of `y`, ties counted half (Mann-Whitney's U / nm)."""
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check(first, "x")
    _check(second, "y")
    one, other = np.moveaxis(first, axis, -1)[..., :, None], np.moveaxis(second, axis, -1)[..., None, :]
    # Rewards are single precision, and means of equal ones differ in what lies below it: that is a tie.
    ties = np.isclose(one, other, rtol=1e-7, atol=1e-12)
    return np.asarray(((one > other) & ~ties).mean(axis=(-2, -1)) + 0.5 * ties.mean(axis=(-2, -1)))


def curves(cost: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    """Checked `cost` and `values`, both (seeds, time); raises `ValueError` where they are no curves."""
    heights, at = _values(values), np.asarray(cost, dtype=np.float64)
    _check(at, "cost")
    if at.shape not in (heights.shape, heights.shape[1:]):
        raise ValueError(
            f"cost must be (time,) or (seeds, time) like the values {heights.shape}, not {at.shape}"
        )
    if (np.diff(at, axis=-1) < 0).any():
        raise ValueError("cost falls along the curve: it must be cumulative, in the order it was spent")
    return np.broadcast_to(at, heights.shape), heights


def _values(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"values must be (seeds, time) with at least one of each, not {array.shape}")
    _check(array, "values")
    return array


def _check(array: Floats, name: str) -> None:
    if not array.size:
        raise ValueError(f"{name} is empty: at least one number is needed")
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(
            f"{name} has {int(bad.sum())} entries of {array.size} that are NaN or infinite: leave out those "
            "seeds (and say so), or cut all curves to the evaluations that every seed has"
        )
