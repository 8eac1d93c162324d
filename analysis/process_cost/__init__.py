"""What the process reward costs, and when it pays for itself.

A process reward is made once and used by any number of runs. Here its making is charged to a run in full, shared among
ten runs, and not at all; and the number of runs is found at which a method that uses it has spent as much as the
baseline, which needs none, when both stand at the same target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.convergence import SPANS, WHOLE, Curves, check_baseline, headline_curves
from analysis.costs import spending
from analysis.curves import final_values
from analysis.guidance import accuracies
from analysis.records import RecordError, Records
from analysis.schema import PRM_TRAINING
from analysis.statistics import Interval, paired_gain
from analysis.statistics.speed import Estimate, mean_cost, span_targets, speed_up

UNIT = "tflops"
RANGES = (WHOLE, "around 75 %")
"""Ranges of targets, as shares of the baseline's gain."""
SHARED = (1, 10, None)
"""Runs that share the making of a process reward; None charges nothing."""


@dataclass(frozen=True)
class Paying:
    """What a method's process reward costs over one of `RANGES`.

    `speed` is the speed-up over the baseline in operations, by the runs that share the making. After `runs`
    (estimate, low, high) the making is paid for; infinite: never.
    """

    span: str
    speed: dict[int | None, Estimate]
    runs: tuple[float, float, float]


@dataclass(frozen=True)
class Price:
    """One method and its process reward, made with `making` TFLOP.

    `gain` is that of `final_gain`; `accuracy` the share of pairs of the base model's videos that the process reward
    orders correctly, by noise level; `paying` has one entry for each of `RANGES`.
    """

    method: str
    making: float
    gain: Interval
    accuracy: dict[float, float]
    paying: tuple[Paying, ...]


def process_costs(run: Records, baseline: str | None = None) -> list[Price]:
    """One entry for each method that uses a process reward, the cheapest first.

    Raises:
        RecordError: no method does, or the baseline sets no target.
    """
    name = check_baseline(run, baseline)
    parts = spending(run).parts
    parts = parts[(parts["component"] == PRM_TRAINING) & (parts["quantity"] == UNIT)]
    making = parts.set_index("method")["value"]
    if not len(making):
        listed = ", ".join(run.methods)
        raise RecordError(f"no method of {listed} uses a process reward whose making was recorded")
    if run.charges_prm:
        raise RecordError("these records charge the process reward already; give a run without --charge-prm")
    _, units, arrays = headline_curves(run)
    if UNIT not in units:
        raise RecordError(f"{run.path} recorded no operations, so nothing can be charged in them")
    curves = arrays[UNIT]
    gain = paired_gain(curves[name].values[:, -1], curves[name].values[:, 0])
    if not gain.mean > 0:
        raise RecordError(f"the baseline {name} gained nothing ({gain.mean:+.3f}), so it sets no target")
    known = accuracies(run)
    prices = []
    for method, cost in zip(map(str, making.index), map(float, making), strict=True):
        paying = tuple(_paying(curves[method], curves[name], cost, span, len(making)) for span in RANGES)
        own = {entry.sigma: entry.first.mean for entry in known if entry.method == method}
        prices.append(Price(method, cost, final_gain(run, method), own, paying))
    return sorted(prices, key=lambda price: price.making)


def final_gain(run: Records, method: str) -> Interval:
    """Gain of the headline reward over the base model, on held-out prompts, at the end."""
    values = final_values(run)
    own = values[(values["method"] == method) & (values["reward"] == run.suite.headline)]
    own = own[own["split"] == "held_out"]
    return paired_gain(own["final"].to_numpy(), own["base"].to_numpy())


def _paying(own: Curves, baseline: Curves, making: float, span: str, comparisons: int) -> Paying:
    speed = {}
    for runs in SHARED:
        charged = _charged(own, 0.0 if runs is None else making / runs)
        reference = baseline.cost, baseline.values
        speed[runs] = speed_up(*charged, *reference, span=SPANS[span], comparisons=comparisons)
    mean = baseline.values.mean(axis=0)
    targets = span_targets(SPANS[span], float(mean[0]), float(mean[-1]))
    spent, free = mean_cost(baseline.cost, baseline.values, targets), speed[None]
    value, low, high = (_runs(making, spent, ratio) for ratio in (free.value, free.high, free.low))
    return Paying(span, speed, (value, low, high))


def _charged(curves: Curves, cost: float) -> tuple[np.ndarray, np.ndarray]:
    """Costs and values that stay at the base model's until `cost` is paid."""
    if cost == 0:
        return curves.cost, curves.values
    before = np.zeros((len(curves.seeds), 1))
    return np.hstack([before, curves.cost + cost]), np.hstack([curves.values[:, :1], curves.values])


def _runs(making: float, baseline_cost: float, ratio: float) -> float:
    """Runs after which making + n x (baseline's cost / ratio) = n x (baseline's cost)."""
    if not ratio > 1:
        return math.inf
    saved = baseline_cost * (1 - (0 if math.isinf(ratio) else 1 / ratio))
    return making / saved if saved > 0 else math.inf
