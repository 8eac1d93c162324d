"""Numbers and names as a reader sees them, in one place so that page, tables and terminal agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from analysis.schema import UNITS
from analysis.statistics import Interval

NONE = "–"  # what stands where there is no number

SPLIT_NAMES = {"held_out": "held-out prompts", "train": "training prompts"}

METRICS: dict[str, dict[str, str]] = yaml.safe_load(
    (Path(__file__).parent / "templates" / "metrics.yaml").read_text(encoding="utf-8")
)
"""Metrics of training that the page shows, in its order: `title` on an axis, and `meaning`."""

UNIT_TITLES = {unit: words.several for unit, words in UNITS.items()} | {"seconds": "wall-clock time"}
UNIT_AXES = UNIT_TITLES | {"videos": "videos generated", "nfe": "network evaluations (NFE)"}
UNIT_AXES |= {"tflops": "compute (TFLOP)", "seconds": "training time (s)"}
"""What compute is counted in: as a table's column, and as an axis."""


def number(value: float) -> str:
    """A value as in `0.672`; three significant digits when it is large."""
    if math.isnan(value):
        return NONE
    size = abs(value)
    shown = f"{value:.3f}" if size < 10 else f"{value:,.3g}" if size < 1000 else f"{value:,.0f}"
    return shown.replace("-", "−") if shown.strip("-0.,") else shown.strip("-")


def signed(value: float) -> str:
    """A difference with its sign, as in `+0.119` or `−0.020`."""
    if math.isnan(value):
        return NONE
    text = number(abs(value))
    if not text.strip("0.,"):
        return text
    return ("+" if value > 0 else "−") + text


def change(first: float, last: float) -> str:
    """`0.672 → 0.791`."""
    return f"{number(first)} → {number(last)}"


def interval(value: Interval) -> str:
    """`+0.080 to +0.158`, `seeds alike`, or `no interval` where there are too few seeds."""
    if value.known:
        return f"{signed(value.low)} to {signed(value.high)}"
    return "seeds alike" if value.alike else "no interval"


def cell(value: Interval, show: Callable[[float], str] = signed) -> str:
    """A mean above its interval, or alone where there is none; a unit stands once, as in `6 to 78 %`."""
    bounds = f"\n{show(value.low).removesuffix(' %')} to {show(value.high)}" if value.known else ""
    return show(value.mean) + bounds


def p_value(value: float) -> str:
    """`0.031`, `≤ 0.001`; one digit more where `0.050` would leave open on which side it lies."""
    if math.isnan(value):
        return NONE
    return "≤ 0.001" if value <= 0.001 else f"{value:.4f}" if f"{value:.3f}" == "0.050" else f"{value:.3f}"


def ratio(value: float) -> str:
    """A speed-up over a baseline: `1.42×`, or in words where a curve never reaches the target."""
    return f"{_times(value)}×" if value > 0 else "not reached"


def _times(value: float) -> str:
    """Three significant digits at most: more would pretend."""
    return f"{value:.2f}" if value < 10 else f"{value:.3g}" if value < 100 else "over 100"


def bounds(low: float, high: float) -> str:
    """Bounds of a speed-up: `1.05 to 2.10`, `1.05 or more`, `2.10 or less`, `no bound`, or `no interval`.

    An upper limit above 100 without a lower one bounds nothing.
    """
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    if low == 0 and high >= 100:
        return "no bound"
    if math.isinf(high):
        return f"{_times(low)} or more"
    return f"{_times(low)} to {_times(high)}" if low > 0 else f"{_times(high)} or less"


def percent(share: float) -> str:
    """A share as in `75 %`."""
    return NONE if math.isnan(share) else f"{100 * share:.0f} %"


def seconds(value: float) -> str:
    """A duration as in `4.2 s`, `48 s`, `12.1 min` or `3.3 h`."""
    if math.isnan(value):
        return NONE
    if value < 100:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def cost(value: float, unit: str) -> str:
    """An amount of compute in its unit, to three digits or whole: `40`, `2,560`, `1.23`, `2.1 min`."""
    if math.isnan(value):
        return NONE
    if unit == "seconds":
        return seconds(value)
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


def count(amount: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def counts(amounts: Iterable[int], noun: str) -> str:
    """`3 seeds`, or `3 to 5 seeds` where the amounts differ."""
    least, most = min(known := list(amounts) or [0]), max(known)
    return count(least, noun) if least == most else f"{least} to {most} {noun}s"


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def reward_name(reward: str) -> str:
    """A reward as words: `colour_accuracy` is `colour accuracy`."""
    return reward.replace("_", " ")


def starred(reward: str, role: str) -> str:
    """A reward's name, with a star if methods were trained on it."""
    return reward_name(reward) + ("*" if role == "training" else "")


def metric_name(metric: str) -> str:
    """A training metric as an axis label."""
    if metric.startswith("reward/"):
        return f"{reward_name(metric.removeprefix('reward/'))} (rollouts)"
    return METRICS[metric]["title"] if metric in METRICS else metric.replace("_", " ").replace("/", ": ")
