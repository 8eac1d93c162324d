"""What the process reward costs, and when it pays for itself.

A process reward is made once and used by any number of runs. Here its making is charged to a run in full, shared among
ten runs, and not at all; and the number of runs is found at which a method that uses it has spent as much as the
baseline, which needs none, when both stand at the same target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.convergence import Curves, check_baseline, curve_arrays
from analysis.costs import spending, with_costs
from analysis.curves import counted_curves, final_values
from analysis.guidance import accuracies
from analysis.records import RecordError, Records
from analysis.schema import PRM_TRAINING
from analysis.statistics import Estimate, Interval, mean_cost_to_target, paired_gain, speed_up

UNIT = "tflops"
SHARES = (0.5, 0.75)
"""Targets, as shares of the baseline's gain."""
SHARED = (1, 10, None)
"""Runs that share the making of a process reward; None charges nothing."""


@dataclass(frozen=True)
class Paying:
    """What a method's process reward costs at one target.

    Attributes:
        share: of the baseline's gain.
        target: the reward there.
        speed: runs that share the making -> speed-up over the baseline, in operations.
        runs: after so many runs the making is paid for: estimate, low, high. Infinite: never.
    """

    share: float
    target: float
    speed: dict[int | None, Estimate]
    runs: tuple[float, float, float]


@dataclass(frozen=True)
class Price:
    """One method and its process reward.

    Attributes:
        method: its name.
        making: TFLOP that made the process reward.
        gain: of the headline reward over the base model, on held-out prompts, at the end.
        accuracy: noise level -> share of pairs of the base model's videos that the process reward orders rightly.
        paying: one entry for each of `SHARES`.
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
    making = parts[(parts["component"] == PRM_TRAINING) & (parts["quantity"] == UNIT)].set_index("method")[
        "value"
    ]
    if not len(making):
        raise RecordError(
            f"no method of {', '.join(run.methods)} uses a process reward whose making was recorded"
        )
    curves = _curves(run)
    start, end = curves[name].values[:, 0].mean(), curves[name].values[:, -1].mean()
    if not end > start:
        raise RecordError(
            f"the baseline {name} gained nothing ({start:.3f} to {end:.3f}), so it sets no target"
        )
    first = {(entry.method, entry.sigma): entry.first.mean for entry in accuracies(run)}
    prices = []
    for method, cost in making.items():
        paying = tuple(
            _paying(
                curves[str(method)],
                curves[name],
                float(cost),
                share,
                start + share * (end - start),
                len(making),
            )
            for share in SHARES
        )
        own = {sigma: value for (owner, sigma), value in first.items() if owner == method}
        prices.append(Price(str(method), float(cost), final_gain(run, str(method)), own, paying))
    return sorted(prices, key=lambda price: price.making)


def _curves(run: Records) -> dict[str, Curves]:
    """Each method's headline curves on held-out prompts over operations, without the making of process rewards."""
    if run.charges_prm:
        raise RecordError("these records charge the process reward already; give a run without --charge-prm")
    means = counted_curves(run)
    chosen = means[(means["split"] == "held_out") & (means["reward"] == run.suite.headline)]
    joined = with_costs(run, chosen)
    arrays = {method: curve_arrays(joined[joined["method"] == method], UNIT) for method in run.methods}
    return {method: found for method, found in arrays.items() if found is not None}


def final_gain(run: Records, method: str) -> Interval:
    """Gain of the headline reward over the base model, on held-out prompts, at the end."""
    values = final_values(run)
    own = values[
        (values["method"] == method)
        & (values["reward"] == run.suite.headline)
        & (values["split"] == "held_out")
    ]
    return paired_gain(own["final"].to_numpy(), own["base"].to_numpy())


def _paying(
    own: Curves, baseline: Curves, making: float, share: float, target: float, comparisons: int
) -> Paying:
    rng = np.random.default_rng(0)  # the interval used here draws nothing
    speed = {
        runs: speed_up(
            *_charged(own, 0.0 if runs is None else making / runs),
            baseline.cost,
            baseline.values,
            target,
            rng,
            comparisons=comparisons,
        )
        for runs in SHARED
    }
    free = speed[None]
    spent = mean_cost_to_target(baseline.cost, baseline.values, target)
    runs = tuple(_runs(making, spent, ratio) for ratio in (free.value, free.high, free.low))
    return Paying(share, target, speed, (runs[0], runs[1], runs[2]))


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
