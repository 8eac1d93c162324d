"""What the process reward costs, and when it pays for itself.

A process reward is made once and used by any number of runs. The baseline needs none: after how many runs to the same
targets has it spent as many operations as the method, the making included?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import text
from analysis.convergence import Convergence, Speed
from analysis.costs import spending
from analysis.records import Records
from analysis.schema import PRM_TRAINING
from analysis.tables.text_table import TextTable, tidy

UNIT = "tflops"


@dataclass(frozen=True)
class Price:
    """A process reward made with `making` TFLOP, and the whole-curve `speed` of the method that uses it."""

    making: float
    speed: Speed

    @property
    def runs(self) -> tuple[float, float, float]:
        """After how many the making is paid for: estimate, low, high; infinite for never, NaN without an interval."""
        ratio, spent = self.speed.ratio, self.speed.baseline_cost
        value, low, high = (_runs(self.making, spent, of) for of in (ratio.value, ratio.high, ratio.low))
        return value, low, high


def process_costs(run: Records, course: Convergence) -> list[Price]:
    """One entry for each method with a process reward and a speed-up in operations, the cheapest first.

    None where the baseline has a process reward, too, or where the speed-ups are charged with its making already.
    """
    parts = spending(run).parts
    parts = parts[(parts["component"] == PRM_TRAINING) & (parts["quantity"] == UNIT)]
    making = parts.set_index("method")["value"].sort_values()
    if run.charges_prm or course.baseline in making:
        return []
    known = [(cost, course.speed(str(method), UNIT)) for method, cost in making.items()]
    return [Price(float(cost), speed) for cost, speed in known if speed]


def _runs(making: float, baseline_cost: float, ratio: float) -> float:
    """Runs after which making + n x (baseline's cost / ratio) = n x (baseline's cost)."""
    if math.isnan(ratio):
        return math.nan
    return making / (baseline_cost * (1 - 1 / ratio)) if ratio > 1 else math.inf


def process_cost_table(prices: Sequence[Price]) -> tuple[pd.DataFrame, TextTable]:
    """One row a method, tidy and as text."""
    frame = tidy(
        {"method": price.speed.method, "making_tflops": price.making, "speed_up": price.speed.ratio}
        | dict(zip(("runs", "runs_low", "runs_high"), price.runs, strict=True))
        for price in prices
    )
    columns = {
        "method": lambda price: price.speed.method,
        "making, TFLOP": lambda price: f"{price.making:.3g}",
        "speed-up, making not charged": lambda price: _speed(price.speed),
        "pays after": lambda price: after(*price.runs),
    }
    baseline = prices[0].speed.baseline if prices else ""
    note = (
        f"Speed-up over {baseline} in operations over the whole curve, as in the table of speed-ups. Pays after: so "
        f"many runs, making included, cost no more operations than as many of {baseline}; from the speed-up and its "
        "limits."
    )
    return frame, TextTable.of("What the process reward costs", prices, columns, note)


def _speed(speed: Speed) -> str:
    return f"{text.ratio(speed.ratio.value)}\n{text.bounds(speed.ratio.low, speed.ratio.high)}"


def after(*runs: float) -> str:
    """A number of runs with its limits, in two digits: `24 runs` above `21 to 32`."""
    value, low, high = (
        "never" if math.isinf(number) else f"{float(f'{max(number, 1.0):.2g}'):,g}" for number in runs
    )
    value += {"never": "", "1": " run"}.get(value, " runs")
    if math.isnan(runs[1]) or low == "never":
        return value
    return f"{value}\n{low} or more" if high == "never" else f"{value}\n{low} to {high}"
