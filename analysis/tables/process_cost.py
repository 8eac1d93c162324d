"""What a process reward costs and when it has paid for itself, as numbers and as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis import text
from analysis.process_cost import RANGES, SHARED, Price
from analysis.records import Records
from analysis.statistics.speed import Estimate
from analysis.tables.text_table import TextTable, tidy

_CHARGED = {1: "charged to one run", 10: "shared by ten", None: "not charged"}


def process_cost_tables(
    prices: Sequence[Price], baseline: str, run: Records
) -> tuple[pd.DataFrame, tuple[TextTable, ...]]:
    """One row a method and range of targets, tidy; as text a table of methods and one of the accuracies."""
    frame = tidy(
        {"method": price.method, "making_tflops": price.making, "gain": price.gain, "span": entry.span}
        | {f"speed_up_{'free' if runs is None else runs}": speed for runs, speed in entry.speed.items()}
        | dict(zip(("runs", "runs_low", "runs_high"), entry.runs, strict=True))
        for price in prices
        for entry in price.paying
    )
    return frame, (_prices(prices, baseline, run), _accuracy(prices))


def _prices(prices: Sequence[Price], baseline: str, run: Records) -> TextTable:
    columns = ["method", "making, TFLOP", "gain"]
    for span in RANGES:
        columns += [f"{span}: {_CHARGED[shared]}" for shared in SHARED] + ["pays after"]
    rows = []
    for price in prices:
        cells = [price.method, f"{price.making:.3g}", text.cell(price.gain)]
        for entry in price.paying:
            cells += [_speed(entry.speed[shared]) for shared in SHARED] + [_runs(*entry.runs)]
        rows.append(tuple(cells))
    note = (
        f"Speed-up over {baseline} in operations, over the whole curve (25 to 85 % of its gain) and around 75 %, of "
        f"{text.reward_name(run.suite.headline)} on held-out prompts, with the making of the process reward charged to "
        "the run, shared by ten runs, or not charged; intervals over seeds, widened for "
        f"{text.count(len(prices), 'comparison')}. Pays after: this many runs to the target, making included, cost no "
        "more operations than as many of the baseline."
    )
    return TextTable("What the process reward costs", tuple(columns), tuple(rows), note)


def _speed(speed: Estimate) -> str:
    bounds = f"\n{text.bounds(speed.low, speed.high)}" if speed.known else ""
    return f"{text.ratio(speed.value)}{bounds}"


def _runs(*runs: float) -> str:
    value, low, high = (max(1.0, each) for each in runs)
    if math.isinf(value):
        return "never" if math.isinf(low) else f"never\n{low:.2g} or more"
    upper = "never" if math.isinf(high) else f"{high:.2g}"
    return f"{value:.2g} {'run' if value == 1 else 'runs'}\n{low:.2g} to {upper}"


def _accuracy(prices: Sequence[Price]) -> TextTable:
    levels = sorted({level for price in prices for level in price.accuracy})
    rows = []
    for price in prices:
        accuracies = (text.number(price.accuracy.get(level, math.nan)) for level in levels)
        rows.append((price.method, f"{price.making:.3g}", *accuracies))
    note = (
        "Share of pairs of one prompt that the process reward orders as the training rewards do, on the base model's "
        "own rollouts, by the noise level at which it reads them."
    )
    columns = ("method", "making, TFLOP", *(f"sigma {level:.2g}" for level in levels))
    return TextTable("Accuracy of the process reward", columns, tuple(rows), note)
