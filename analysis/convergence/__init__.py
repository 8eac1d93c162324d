"""Who reaches the baseline's reward sooner, in every unit of compute.

The targets are shares of what the baseline itself gains: the headline reward on held-out prompts, from the base
model to the baseline's mean at its end. A speed-up is the baseline's cost to a target over a method's, on curves
averaged over seeds; above 1 the method is faster. Areas under the curves are compared beside it, because they
use whole curves and exist also where a target is not reached.

Euphonium's paper (arXiv 2602.04928) claims 1.66 times faster convergence than Flow-GRPO (2505.05470) and
DanceGRPO (2505.07818), counted in training steps: the unit `iterations` here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import text
from analysis.commandline import closest
from analysis.costs import MATCHED, cumulative_costs, known_units, with_costs
from analysis.curves import counted_curves, same_iterations
from analysis.records import RecordError, Records
from analysis.statistics import (
    Estimate,
    Interval,
    area_under_curve,
    cost_to_target,
    mean_cost_to_target,
    mean_interval,
    speed_up,
    welch_difference,
)

Floats = NDArray[np.float64]

SHARES = (0.5, 0.75, 1.0)
"""Targets, as shares of the baseline's own gain."""

BASELINES = ("dance_grpo", "flow_grpo")
"""The baseline where none is named: the first of these that was trained, else the run's first method."""

UNDECIDED = "not told apart"

LOST = 0.2
"""A baseline that ends with more than this share of its best gain lost sets a target that says little."""

_JUST_BELOW = 1e-9
"""A target of 100 % is lowered by this share of the gain, so that rounding cannot put it above the mean's end."""


@dataclass(frozen=True)
class Curves:
    """Curves of a method's seeds: `cost` and `values`, both (seeds, time), from no cost at the base model."""

    cost: Floats
    values: Floats
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Speed:
    """How much sooner `method` reaches `share` of the baseline's gain (`target`) in one unit.

    `cost` and `baseline_cost` are those of the mean curves, infinite where not reached; of the method's
    `seeds`, `reached` reach it by themselves. `behind` is set where the method, having spent as much as the
    baseline, is below the baseline's end for certain: the ratio then has no upper limit, because the baseline
    only just reaches its own end, and yet is below 1.
    """

    method: str
    baseline: str
    unit: str
    share: float
    target: float
    cost: float
    baseline_cost: float
    reached: int
    seeds: int
    ratio: Estimate
    behind: bool = False

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or `UNDECIDED`."""
        if self.ratio.excludes(1.0):
            return "faster" if self.ratio.low > 1 else "slower"
        return "slower" if self.behind else UNDECIDED


@dataclass(frozen=True)
class Area:
    """Mean height of a method's curves up to a cost that all methods reached, and its excess over the baseline's."""

    method: str
    unit: str
    upto: float
    height: Interval
    excess: Interval | None


@dataclass(frozen=True)
class Convergence:
    """Speed-ups and areas of all methods against one baseline; `why_not` says why there are none.

    `start`, `peak` and `end` are of the baseline's mean curve.
    """

    baseline: str
    reward: str
    split: str
    start: float
    end: float
    units: tuple[str, ...]
    speeds: tuple[Speed, ...]
    areas: tuple[Area, ...]
    peak: float = math.nan
    why_not: str = ""

    @property
    def fell(self) -> bool:
        """Whether the baseline lost much of its best gain again, so that its end is a low target."""
        return self.end - self.start < (1 - LOST) * (self.peak - self.start)

    def speed(self, method: str, unit: str, share: float = 1.0) -> Speed | None:
        """One entry, or None."""
        for entry in self.speeds:
            if (entry.method, entry.unit, entry.share) == (method, unit, share):
                return entry
        return None


def default_baseline(methods: Sequence[str]) -> str:
    """DanceGRPO, Euphonium's nearest relative, if it was trained; else Flow-GRPO; else the first method."""
    return next((name for name in BASELINES if name in methods), methods[0] if methods else "")


def check_baseline(run: Records, baseline: str | None) -> str:
    """The baseline to compare with. Raises `RecordError` for a name that the run does not hold."""
    if baseline is None:
        return default_baseline(run.methods)
    if baseline not in run.methods:
        raise RecordError(
            f"baseline is {baseline!r}, which was not trained; {closest(baseline, run.methods)}"
        )
    return baseline


def curve_arrays(frame: pd.DataFrame, unit: str) -> Curves | None:
    """Arrays of one method's curves (columns seed, iteration, value and units); None if no seed has two points.

    Seeds that were evaluated at the same iterations get their mean costs: what an iteration takes in seconds
    differs by chance. Seeds that were evaluated less often are filled up with their last point, which adds
    nothing to a curve. One that starts at a cost (of training a process reward) stays at the base model's
    value until then.
    """
    rows, seeds = [], []
    frame = frame.dropna(subset=["value", unit]).sort_values("iteration")
    for seed, part in frame.groupby("seed"):
        cost, values = part[unit].to_numpy(), part["value"].to_numpy()
        if len(cost) < 2:
            continue
        if cost[0] > 0:
            cost, values = np.concatenate([[0.0], cost]), np.concatenate([values[:1], values])
        rows.append((cost, values))
        seeds.append(int(str(seed)))
    if not rows:
        return None
    longest = max(len(cost) for cost, _ in rows)
    padded = [[np.pad(row, (0, longest - len(row)), mode="edge") for row in pair] for pair in rows]
    costs, heights = (np.stack([pair[part] for pair in padded]) for part in (0, 1))
    if same_iterations(frame):
        costs = np.broadcast_to(costs.mean(axis=0), heights.shape)
    return Curves(costs, heights, tuple(seeds))


def convergence(run: Records, baseline: str | None = None) -> Convergence:
    """Compare every method with the baseline on the headline reward, in every unit that was recorded."""
    name = check_baseline(run, baseline)
    split = run.splits[0] if run.splits else "held_out"
    means = counted_curves(run)
    chosen = means[(means["split"] == split) & (means["reward"] == run.suite.headline)]
    units = known_units(cumulative_costs(run))
    joined = with_costs(run, chosen)
    arrays = {
        unit: {m: found for m in run.methods if (found := curve_arrays(joined[joined["method"] == m], unit))}
        for unit in units
    }
    start, end, peak = _ends(joined, name)
    why_not = _why_not(run, name, start, end, arrays)
    speeds: list[Speed] = []
    areas: list[Area] = []
    for unit in units:
        areas += _areas(arrays[unit], name, unit)
        if not why_not:
            speeds += _speeds(arrays[unit], name, unit, start, end)
    return Convergence(
        baseline=name,
        reward=run.suite.headline,
        split=split,
        start=start,
        end=end,
        units=units,
        speeds=tuple(speeds),
        areas=tuple(areas),
        peak=peak,
        why_not=why_not,
    )


def _ends(joined: pd.DataFrame, baseline: str) -> tuple[float, float, float]:
    """The baseline's mean at the start and at the end of its seeds, and the highest on the way."""
    own = joined[joined["method"] == baseline].dropna(subset=["value"]).sort_values("iteration")
    seeds = own.groupby("seed")["value"]
    ends = float(seeds.first().mean()), float(seeds.last().mean())
    whole = own.groupby("iteration")["value"].agg(["mean", "size"])
    peak = float(whole.loc[whole["size"] == own["seed"].nunique(), "mean"].max())
    return *ends, max(peak, *ends)


def _why_not(
    run: Records, baseline: str, start: float, end: float, arrays: Mapping[str, Mapping[str, Curves]]
) -> str:
    reward = text.reward_name(run.suite.headline)
    if len(run.methods) < 2:
        return "a speed-up needs a second method"
    if not any(baseline in entries for entries in arrays.values()):
        return f"no seed of the baseline {baseline} has finished with an evaluation"
    if not end > start:
        return (
            f"the baseline {baseline} gained nothing ({reward} went from {text.number(start)} to "
            f"{text.number(end)}), so it sets no target"
        )
    return ""


def _speeds(arrays: Mapping[str, Curves], baseline: str, unit: str, start: float, end: float) -> list[Speed]:
    own = arrays[baseline]
    others = [name for name in arrays if name != baseline]
    rng = np.random.default_rng(0)  # the interval used here draws nothing
    entries = []
    for share in SHARES:
        target = start + (share - _JUST_BELOW) * (end - start)
        baseline_cost = mean_cost_to_target(own.cost, own.values, target)
        for name in others:
            curves = arrays[name]
            if curves.values[:, 0].mean() >= target:
                continue
            ratio = speed_up(
                curves.cost, curves.values, own.cost, own.values, target, rng, comparisons=len(others)
            )
            reached = int(np.isfinite(cost_to_target(curves.cost, curves.values, target)).sum())
            cost = mean_cost_to_target(curves.cost, curves.values, target)
            behind = share == 1.0 and _behind(curves, own, len(others))
            seeds = len(curves.seeds)
            entries.append(
                Speed(name, baseline, unit, share, target, cost, baseline_cost, reached, seeds, ratio, behind)
            )
    return entries


def _behind(curves: Curves, baseline: Curves, comparisons: int) -> bool:
    """Whether a method that spent as much as the baseline is below it at the end, by Welch's widened interval."""
    last = float(baseline.cost[:, -1].min())
    upto = min(float(curves.cost[:, -1].min()), last)
    if upto < (1 - MATCHED) * last:
        return False
    ends = [
        [float(np.interp(upto, cost, value)) for cost, value in zip(own.cost, own.values, strict=True)]
        for own in (curves, baseline)
    ]
    gap = welch_difference(ends[0], ends[1], 1 - 0.05 / comparisons)
    return gap.excludes_zero and gap.mean < 0


def _areas(arrays: Mapping[str, Curves], baseline: str, unit: str) -> list[Area]:
    if not arrays:
        return []
    upto = min(float(curves.cost[:, -1].min()) for curves in arrays.values())
    if not upto > 0 or len(arrays) < 2:
        return []
    heights = {name: area_under_curve(curves.cost, curves.values, upto) for name, curves in arrays.items()}
    level = 1 - 0.05 / max(len(heights) - 1, 1)  # for all differences to the baseline to hold with 95 %
    return [
        Area(
            name,
            unit,
            upto,
            mean_interval(height),
            welch_difference(height, heights[baseline], level)
            if baseline in heights and name != baseline
            else None,
        )
        for name, height in heights.items()
    ]
