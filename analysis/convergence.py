"""Who learns faster than the baseline, in every unit of compute.

A speed-up is the baseline's cost over a method's, to the same held-out headline reward: the geometric mean over a
range of rewards that the baseline itself reaches, as shares of its own gain. The whole curve (25 to 85 % of the
gain), in the unit of the budget, answers the run's question; narrower ranges and other units are secondary.

Euphonium's paper (arXiv 2602.04928) claims 1.66 times faster convergence than Flow-GRPO (2505.05470) and
DanceGRPO (2505.07818), counted in training steps: the unit `iterations` here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import text
from analysis.commandline import closest
from analysis.costs import cumulative_costs, known_units, with_costs
from analysis.curves import counted_curves, same_iterations
from analysis.records import RecordError, Records
from analysis.schema import default_baseline
from analysis.statistics import Interval, paired_gain
from analysis.statistics.speed import Estimate, Span, mean_cost, span_targets, speed_up

Floats = NDArray[np.float64]

WHOLE = "whole curve"
SPANS = {WHOLE: Span(0.25, 0.85), "around 50 %": Span(0.4, 0.6), "around 75 %": Span(0.65, 0.85)}
"""Ranges of targets, as shares of the baseline's gain; the first is the primary one."""

UNDECIDED = "not shown"

LOST = 0.2
"""A baseline that ends with more than this share of its best gain lost sets targets that say little."""


class Curves(NamedTuple):
    """Curves of a method's seeds: `cost` and `values`, both (seeds, time), from no cost at the base model."""

    cost: Floats
    values: Floats
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Speed:
    """How much less than the baseline `method` spends over one span of targets, in one unit.

    `cost` and `baseline_cost` are geometric means over the targets, infinite where the mean curve does not get
    through them.
    """

    method: str
    baseline: str
    unit: str
    span: str
    cost: float
    baseline_cost: float
    ratio: Estimate

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or `UNDECIDED`."""
        if not self.ratio.excludes(1.0):
            return UNDECIDED
        return "faster" if self.ratio.low > 1 else "slower"


@dataclass(frozen=True)
class Convergence:
    """Speed-ups of all methods over one baseline; `why_not` says why there are none.

    `gain` is the baseline's, over its seeds; `start`, `peak` and `end` are of its mean curve. `unit` is the budget's
    where it was recorded, else iterations.
    """

    baseline: str
    reward: str
    split: str
    start: float
    end: float
    peak: float
    gain: Interval
    units: tuple[str, ...]
    unit: str
    speeds: tuple[Speed, ...]
    why_not: str = ""

    @property
    def fell(self) -> bool:
        """Whether the baseline lost much of its best gain again, so that its end is a low target."""
        return self.end - self.start < (1 - LOST) * (self.peak - self.start)

    def speed(self, method: str, unit: str, span: str = WHOLE) -> Speed | None:
        """One entry, or None."""
        keys = (method, unit, span)
        return next((entry for entry in self.speeds if (entry.method, entry.unit, entry.span) == keys), None)

    def reward_at(self, share: float) -> float:
        """The reward at a share of the baseline's gain."""
        return self.start + share * (self.end - self.start)


def check_baseline(run: Records, baseline: str | None) -> str:
    """The baseline to compare with: the one given, else the one that the run named, else the default.

    Raises:
        RecordError: the run does not hold it.
    """
    name = baseline or run.question.baseline or default_baseline(run.methods)
    if run.methods and name not in run.methods:
        raise RecordError(f"baseline is {name!r}, which was not trained; {closest(name, run.methods)}")
    return name


def curve_arrays(frame: pd.DataFrame, unit: str) -> Curves | None:
    """Arrays of one method's curves (columns seed, iteration, value and units); None if no seed has two points.

    Seeds that were evaluated at the same iterations get their mean costs: what an iteration takes in seconds
    differs by chance. Seeds that were evaluated less often are filled up with their last point, which adds
    nothing to a curve. One that starts at a cost (of training a process reward) stays at the base model's
    value until then.
    """
    frame = frame.dropna(subset=["value", unit]).sort_values(["seed", "iteration"])
    frame = frame[frame.groupby("seed")["seed"].transform("size") > 1]
    if not len(frame):
        return None
    first = frame.groupby("seed").head(1)
    points = pd.concat([first[first[unit] > 0].assign(**{unit: 0.0}), frame])
    points["place"] = points.groupby("seed").cumcount()
    wide = points.pivot(index="place", columns="seed", values=[unit, "value"]).ffill()
    cost, values = (wide[name].to_numpy().T for name in (unit, "value"))
    if same_iterations(frame):
        cost = np.broadcast_to(cost.mean(axis=0), cost.shape)
    return Curves(cost, values, tuple(map(int, wide[unit].columns)))


def convergence(run: Records, baseline: str | None = None) -> Convergence:
    """Compare every method with the baseline on the headline reward, in every unit that was recorded."""
    name = check_baseline(run, baseline)
    split, units, arrays = headline_curves(run)
    own = next((entries[name] for entries in arrays.values() if name in entries), None)
    heights = own.values if own else np.full((1, 2), math.nan)
    mean, gain = heights.mean(axis=0), paired_gain(heights[:, -1], heights[:, 0])
    why_not = _why_not(run, name, own, gain)
    return Convergence(
        baseline=name,
        reward=run.suite.headline,
        split=split,
        start=float(mean[0]),
        end=float(mean[-1]),
        peak=float(mean.max()),
        gain=gain,
        units=units,
        unit=run.budget_unit if run.budget_unit in units else "iterations",
        speeds=() if why_not else tuple(entry for u in units for entry in _speeds(run, arrays[u], name, u)),
        why_not=why_not,
    )


def headline_curves(run: Records) -> tuple[str, tuple[str, ...], dict[str, dict[str, Curves]]]:
    """The split that answers the question, the units known, and unit -> method -> its headline curves."""
    means = counted_curves(run)
    chosen = means[(means["split"] == run.split) & (means["reward"] == run.suite.headline)]
    joined = dict(iter(with_costs(run, chosen).groupby("method")))
    units = known_units(cumulative_costs(run))
    found = {unit: {m: curve_arrays(joined[m], unit) for m in run.methods if m in joined} for unit in units}
    known = {unit: {name: own for name, own in entries.items() if own} for unit, entries in found.items()}
    return run.split, units, known


def _why_not(run: Records, baseline: str, own: Curves | None, gain: Interval) -> str:
    if len(run.methods) < 2:
        return "a speed-up needs a second method"
    if own is None:
        return f"no seed of the baseline {baseline} has finished with an evaluation"
    if gain.n < 2:
        return (
            f"the baseline {baseline} has one finished seed, so its gain is not shown to be more than chance"
        )
    if gain.mean > 0 and (gain.excludes_zero or gain.alike):
        return ""
    return (
        f"the baseline {baseline} is not shown to gain in {text.reward_name(run.suite.headline)} "
        f"({text.signed(gain.mean)}, 95 % interval {text.interval(gain)}), so it sets no target"
    )


def _speeds(run: Records, arrays: Mapping[str, Curves], baseline: str, unit: str) -> list[Speed]:
    own = arrays[baseline]
    others = {name: curves for name, curves in arrays.items() if name != baseline}
    mean = own.values.mean(axis=0)
    entries = []
    for span, shares in SPANS.items():
        targets = span_targets(shares, float(mean[0]), float(mean[-1]))
        spent = mean_cost(own.cost, own.values, targets)
        # The looks of a run that grows widen its primary interval, and no other.
        primary = span == WHOLE
        confidence = run.confidence if primary else 0.95
        comparisons = len(others) * (1 if primary else len(SPANS) - 1)
        for name, (cost, values, _) in others.items():
            pair = (cost, values, own.cost, own.values)
            ratio = speed_up(*pair, span=shares, confidence=confidence, comparisons=comparisons)
            entries.append(Speed(name, baseline, unit, span, mean_cost(cost, values, targets), spent, ratio))
    return entries
