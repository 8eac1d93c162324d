"""Speed-ups and areas under curves, as frames of numbers and as a reader sees them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from analysis import text
from analysis.convergence import SHARES, Area, Convergence, Speed
from analysis.schema import UNITS
from analysis.statistics import Interval
from analysis.tables.text_table import TextTable, write_table

PUBLISHED = (
    "Euphonium's paper (arXiv 2602.04928) reports 1.66× against Flow-GRPO (2505.05470) and DanceGRPO "
    "(2505.07818), counted in training steps (iterations here), on other models and rewards."
)


def speed_frame(found: Convergence) -> pd.DataFrame:
    """One row per (method, unit, share), tidy: costs, ratio with interval, seeds, and whether to trust it."""
    rows = [
        {
            "method": entry.method,
            "baseline": entry.baseline,
            "unit": entry.unit,
            "share": entry.share,
            "target": entry.target,
            "cost": entry.cost,
            "baseline_cost": entry.baseline_cost,
            "speed_up": entry.ratio.value,
            "low": entry.ratio.low,
            "high": entry.ratio.high,
            "confidence": entry.ratio.confidence,
            "seeds": entry.seeds,
            "seeds_that_reach_it": entry.reached,
            "verdict": entry.verdict,
            "trusted": entry.ratio.trusted,
            "why": entry.ratio.why,
        }
        for entry in found.speeds
    ]
    return pd.DataFrame(rows)


def area_frame(found: Convergence) -> pd.DataFrame:
    """One row per (method, unit), tidy: mean height up to the shared cost, and the excess over the baseline."""
    rows = []
    for entry in found.areas:
        excess = entry.excess or Interval(math.nan, math.nan, math.nan, 0)
        row = {"method": entry.method, "baseline": found.baseline, "unit": entry.unit, "upto": entry.upto}
        row |= {"height": entry.height.mean, "low": entry.height.low, "high": entry.height.high}
        row |= {"excess": excess.mean, "excess_low": excess.low, "excess_high": excess.high}
        rows.append({**row, "confidence": excess.confidence, "seeds": entry.height.n})
    return pd.DataFrame(rows)


def speed_table(found: Convergence) -> TextTable:
    """Rows are methods and targets, columns units: the speed-up above its interval."""
    rows = []
    for share in SHARES:
        for method in dict.fromkeys(entry.method for entry in found.speeds):
            entries = [found.speed(method, unit, share) for unit in found.units]
            known = [entry for entry in entries if entry is not None]
            if not known:
                continue
            cells = [_speed_cell(entry) for entry in entries]
            reached = f"{known[0].reached} of {known[0].seeds}"
            rows.append((method, f"{text.percent(share)}: {text.number(known[0].target)}", reached, *cells))
    reward = text.reward_name(found.reward)
    units = (f"in {text.UNIT_TITLES[unit]}" for unit in found.units)
    columns = ("method", f"target ({reward})", "seeds that reach it", *units)
    return TextTable(f"Speed-up over {found.baseline}", columns, tuple(rows), _speed_note(found))


def short_speed_table(found: Convergence, unit: str) -> TextTable:
    """The same in one unit, for many methods: rows are methods, columns targets."""
    rows = []
    for method in dict.fromkeys(entry.method for entry in found.speeds):
        cells = [_speed_cell(found.speed(method, unit, share)) for share in SHARES]
        rows.append((method, *cells))
    targets = (found.start + share * (found.end - found.start) for share in SHARES)
    columns = (
        f"{text.percent(share)}: {text.number(target)}" for share, target in zip(SHARES, targets, strict=True)
    )
    title = f"Speed-up over {found.baseline} in {text.UNIT_TITLES[unit]}"
    return TextTable(title, ("method", *columns), tuple(rows), _speed_note(found))


def _speed_cell(entry: Speed | None) -> str:
    if entry is None:
        return text.NONE
    if entry is None:
        return text.NONE
    mark = "" if entry.ratio.trusted else " †"
    spent = f"{_cost_text(entry.cost, entry.unit)} vs {_cost_text(entry.baseline_cost, entry.unit)}"
    return f"{text.ratio(entry.ratio.value)}{mark}\n{text.bounds(entry.ratio.low, entry.ratio.high)}\n{spent}"


def _cost_text(cost: float, unit: str) -> str:
    return "never" if math.isinf(cost) else text.cost(cost, unit)


def _speed_note(found: Convergence) -> str:
    count = len({entry.method for entry in found.speeds})
    family = f", widened so that all {count} comparisons of a row's target and unit hold together"
    over = f"Student's t over seeds{family if count > 1 else ''}"
    note = (
        f"Targets are shares of {found.baseline}'s own gain on {text.SPLIT_NAMES[found.split]}, from "
        f"{text.number(found.start)} to {text.number(found.end)}. Above 1× a method needs less than "
        f"{found.baseline}; below are the 95 % interval (mean curves moved within their standard errors, {over}) and "
        f"what each spends, the method vs the baseline. {PUBLISHED}"
    )
    doubts = [entry.ratio for entry in found.speeds if not entry.ratio.trusted]
    if any(math.isnan(ratio.value) or ratio.value == 0 or math.isinf(ratio.value) for ratio in doubts):
        note += " † A mean curve that ends below the target leaves a bound at most."
    reasons = dict.fromkeys(ratio.why for ratio in doubts if 0 < ratio.value < math.inf)
    return " ".join([note, *(f"† {why}" for why in reasons)])


def area_table(found: Convergence) -> TextTable:
    """Rows are methods, columns units: mean height up to the shared cost, and the difference to the baseline."""
    units = [unit for unit in found.units if any(entry.unit == unit for entry in found.areas)]
    entries = {(entry.method, entry.unit): entry for entry in found.areas}
    ends = {unit: next(entry.upto for entry in found.areas if entry.unit == unit) for unit in units}
    rows = [
        (method, *(_area_cell(entries.get((method, unit))) for unit in units))
        for method in dict.fromkeys(entry.method for entry in found.areas)
    ]
    columns = ("method", *(f"up to {text.cost(ends[unit], unit)}{_unit_word(unit)}" for unit in units))
    note = (
        f"Mean {text.reward_name(found.reward)} on {text.SPLIT_NAMES[found.split]} over training (area under the "
        f"curve), up to the largest cost that every method reached; below it the difference to {found.baseline} "
        "with Welch's 95 % interval over seeds, widened for the number of methods."
    )
    return TextTable("Mean reward on the way", columns, tuple(rows), note)


def _unit_word(unit: str) -> str:
    return "" if unit == "seconds" else f" {UNITS[unit].several}"


def _area_cell(entry: Area | None) -> str:
    if entry is None:
        return text.NONE
    if entry.excess is None:
        return text.number(entry.height.mean)
    difference = f"{text.signed(entry.excess.mean)}\n{text.interval(entry.excess)}"
    return f"{text.number(entry.height.mean)}\n{difference}"


def write_convergence(found: Convergence, folder: Path) -> list[TextTable]:
    """Write the tables as CSV and Markdown; return those that have rows."""
    tables = []
    for name, frame, table in (
        ("speed_up", speed_frame(found), speed_table(found)),
        ("area", area_frame(found), area_table(found)),
    ):
        if table.rows:
            write_table(folder, name, frame, [table])
            tables.append(table)
    return tables
