"""Speed-ups as a frame of numbers and as a reader sees them."""

from __future__ import annotations

import math

import pandas as pd

from analysis import text
from analysis.convergence import SPANS, WHOLE, Convergence, Speed
from analysis.tables.text_table import TextTable

PUBLISHED = (
    "Euphonium's paper (arXiv 2602.04928) reports 1.66× over Flow-GRPO (2505.05470) and DanceGRPO "
    "(2505.07818), counted in training steps (iterations here), on other models and rewards."
)


def speed_frame(found: Convergence) -> pd.DataFrame:
    """One row per (method, unit, span), tidy: costs, ratio with interval, seeds, verdict."""
    return pd.DataFrame(
        {"method": entry.method, "baseline": entry.baseline, "unit": entry.unit, "span": entry.span}
        | {"share_low": SPANS[entry.span].low, "share_high": SPANS[entry.span].high}
        | {"cost": entry.cost, "baseline_cost": entry.baseline_cost, "speed_up": entry.ratio.value}
        | {name: getattr(entry.ratio, name) for name in ("low", "high", "confidence", "seeds")}
        | {"verdict": entry.verdict, "why": entry.ratio.why}
        for entry in found.speeds
    )


def speed_tables(found: Convergence) -> list[TextTable]:
    """A table a unit, the budget's first: rows are methods, the fastest first, columns ranges of targets."""
    columns = ("method", *(_rewards(found, span) for span in SPANS), "whole curve")
    tables: list[TextTable] = []
    for unit in dict.fromkeys([found.unit, *found.units]):
        entries = [entry for entry in found.speeds if entry.unit == unit and entry.span == WHOLE]
        entries.sort(key=lambda entry: (-entry.ratio.value, -entry.ratio.high))
        rows = tuple(
            (entry.method, *(_cell(found.speed(entry.method, unit, span)) for span in SPANS), entry.verdict)
            for entry in entries
        )
        title = f"Speed-up over {found.baseline} in {text.UNIT_TITLES[unit]}"
        tables.append(TextTable(title, columns, rows, "" if tables else _note(found)))
    return tables


def _rewards(found: Convergence, span: str) -> str:
    low, high = (text.number(found.reward_at(share)) for share in SPANS[span])
    return f"{span}: {low} to {high}"


def _cell(entry: Speed | None) -> str:
    if entry is None:
        return text.NONE
    ratio = entry.ratio
    costs = (entry.cost, entry.baseline_cost)
    spent = " vs ".join("never" if math.isinf(cost) else text.cost(cost, entry.unit) for cost in costs)
    return f"{text.ratio(ratio.value)}\n{text.bounds(ratio.low, ratio.high)}\n{spent}"


def _note(found: Convergence) -> str:
    count = len({entry.method for entry in found.speeds})
    low, high = SPANS[WHOLE]
    note = (
        f"The whole curve is {text.percent(low)} to {text.percent(high)} of {found.baseline}'s own gain on "
        f"{text.SPLIT_NAMES[found.split]}, from {text.number(found.start)} to {text.number(found.end)}; it is the "
        f"primary estimate in the budget's unit. The other ranges are secondary. Each cell: how many times less than "
        f"{found.baseline} a method spends, the geometric mean over the range; its 95 % interval over seeds "
        "(jackknife, Student's t); and what each spends."
    )
    if count > 1:
        note += (
            f" Intervals are widened so that all {count} methods, and for the secondary ranges all {2 * count} "
            "comparisons of a unit, hold together."
        )
    if any(not entry.ratio.value > 0 for entry in found.speeds):
        note += " Not reached: the mean curve does not get through the range, which leaves an upper limit at most."
    return f"{note} {PUBLISHED}"
