"""What the process reward costs, and when it pays for itself: `python -m analysis.process_cost RUN [RUN ...]`.

A process reward is made once and used by any number of runs. Here its making is charged to a run in full, shared among
ten runs, and not at all; and the number of runs is found at which a method that uses it has spent as much as the
baseline, which needs none, when both stand at the same target.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import text
from analysis.combine import load_runs
from analysis.commandline import command
from analysis.convergence import SPANS, WHOLE, Curves, check_baseline, headline_curves
from analysis.costs import spending
from analysis.curves import final_values
from analysis.records import RecordError, Records
from analysis.schema import PRM_TRAINING
from analysis.statistics import Interval, paired_gain
from analysis.statistics.speed import Estimate, mean_cost, span_targets, speed_up
from analysis.tables.text_table import TextTable, tidy, to_text, write_table

UNIT = "tflops"
RANGES = (WHOLE, "around 75 %")
"""Ranges of targets, as shares of the baseline's gain."""
SHARED = (1, 10, None)
"""Runs that share the making of a process reward; None charges nothing."""


@dataclass(frozen=True)
class Price:
    """What a method's process reward, made with `making` TFLOP, costs over one of `RANGES`.

    `gain` is of the headline reward on held-out prompts at the end; `speed` the speed-up over the baseline in
    operations, by the runs that share the making. After `runs` (estimate, low, high) the making is paid for; infinite:
    never.
    """

    method: str
    making: float
    gain: Interval
    span: str
    speed: dict[int | None, Estimate]
    runs: tuple[float, float, float]


def process_costs(run: Records, baseline: str | None = None) -> list[Price]:
    """One entry for each method that uses a process reward and each of `RANGES`, the cheapest first.

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
    values = final_values(run)
    ends = values[(values["reward"] == run.suite.headline) & (values["split"] == "held_out")]
    prices = []
    for method, cost in zip(map(str, making.index), map(float, making), strict=True):
        own = ends[ends["method"] == method]
        gain = paired_gain(own["final"].to_numpy(), own["base"].to_numpy())
        for span in RANGES:
            paid = _paying(curves[method], curves[name], cost, span, len(making))
            prices.append(Price(method, cost, gain, span, *paid))
    return sorted(prices, key=lambda price: price.making)


def _paying(
    own: Curves, baseline: Curves, making: float, span: str, comparisons: int
) -> tuple[dict[int | None, Estimate], tuple[float, float, float]]:
    """`speed` and `runs` of a price."""
    speed: dict[int | None, Estimate] = {}
    for runs in SHARED:
        charged = _charged(own, 0.0 if runs is None else making / runs)
        reference = baseline.cost, baseline.values
        speed[runs] = speed_up(*charged, *reference, span=SPANS[span], comparisons=comparisons)
    mean = baseline.values.mean(axis=0)
    targets = span_targets(SPANS[span], float(mean[0]), float(mean[-1]))
    spent, free = mean_cost(baseline.cost, baseline.values, targets), speed[None]
    value, low, high = (_runs(making, spent, ratio) for ratio in (free.value, free.high, free.low))
    return speed, (value, low, high)


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


def process_cost_table(
    prices: Sequence[Price], baseline: str, run: Records
) -> tuple[pd.DataFrame, TextTable]:
    """One row a method and range of targets, tidy and as text."""
    frame = tidy(
        {"method": price.method, "making_tflops": price.making, "gain": price.gain, "span": price.span}
        | {f"speed_up_{'free' if runs is None else runs}": speed for runs, speed in price.speed.items()}
        | dict(zip(("runs", "runs_low", "runs_high"), price.runs, strict=True))
        for price in prices
    )
    columns = {
        "method": lambda price: price.method,
        "making, TFLOP": lambda price: f"{price.making:.3g}",
        "gain": lambda price: text.cell(price.gain),
        "rewards": lambda price: price.span,
        "charged to one run": lambda price: _speed(price.speed[1]),
        "shared by ten": lambda price: _speed(price.speed[10]),
        "not charged": lambda price: _speed(price.speed[None]),
        "pays after": lambda price: _after(*price.runs),
    }
    methods = text.count(len(set(frame["method"])), "comparison")
    note = (
        f"Speed-up over {baseline} in operations, in {text.reward_name(run.suite.headline)} on held-out prompts, over "
        f"the whole curve (25 to 85 % of {baseline}'s gain) and around 75 %, by who pays for making the process "
        f"reward; intervals over seeds, widened for {methods}. Pays after: this many runs to the target, making "
        "included, cost no more operations than as many of the baseline."
    )
    return frame, TextTable.of("What the process reward costs", prices, columns, note)


def _speed(speed: Estimate) -> str:
    bounds = f"\n{text.bounds(speed.low, speed.high)}" if speed.known else ""
    return f"{text.ratio(speed.value)}{bounds}"


def _after(*runs: float) -> str:
    value, low, high = (max(1.0, each) for each in runs)
    if math.isinf(value):
        return "never" if math.isinf(low) else f"never\n{low:.2g} or more"
    upper = "never" if math.isinf(high) else f"{high:.2g}"
    return f"{value:.2g} {'run' if value == 1 else 'runs'}\n{low:.2g} to {upper}"


def _report(options: argparse.Namespace, output: Path) -> str:
    run = load_runs(options.runs)
    prices, baseline = process_costs(run, options.baseline), check_baseline(run, options.baseline)
    frame, table = process_cost_table(prices, baseline, run)
    write_table(output / "tables", "process_cost", frame, [table])
    return to_text(table)


main = command(
    "analysis.process_cost",
    "What the process reward costs, and after how many runs it has paid for itself.",
    _report,
)


if __name__ == "__main__":
    sys.exit(main())
