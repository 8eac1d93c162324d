"""Numbers and names as a reader sees them, in one place so that page, tables and terminal agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.schema import UNITS
from analysis.statistics import Interval

NONE = "–"  # what stands where there is no number

SPLIT_NAMES = {"held_out": "held-out prompts", "train": "training prompts"}

METRICS = {
    "ratio_deviation": (
        "ratio deviation |ρ − 1|",
        "How far the probability ratio strays from 1, its value before the first update.",
    ),
    "clip_fraction": (
        "share of clipped terms",
        "Share of (sample, step) terms whose ratio left the clip range.",
    ),
    "gradient_norm": ("gradient norm before clipping", "Length of the gradient before it is clipped."),
    "guidance_size": (
        "length of the reward gradient",
        "Mean length of the process reward's gradient at the guided steps.",
    ),
    "guidance_advantage_correlation": (
        "guidance–advantage correlation",
        "Correlation between the length of a sample's guidance and its advantage; below zero, the samples "
        "with low rewards are pushed hardest.",
    ),
    "kl_to_guided": (
        "KL to the distillation target",
        "Divergence, per step, of the policy from what it is distilled towards, such as the guided base model.",
    ),
    "kl_to_base": (
        "KL to the base model, in the loss",
        "Divergence, per step, of the policy from the base model; part of the loss of methods with a KL term.",
    ),
    "policy_loss": (
        "objective alone",
        "The method's own objective without added terms; its value is not comparable between methods.",
    ),
    "loss": ("loss", "Everything that was minimised; its value is not comparable between methods."),
}
"""Metrics of training that the page shows, in its order: name on an axis, and what it is."""

TERMS = {
    "outcome": "outcome rewards",
    "process": "process reward",
    "distillation": "distillation",
    "kl": "KL to the base model",
}
"""Terms of a loss, by the names of `diagnostic/gradient_share/...`."""

UNIT_TITLES = {unit: words.several for unit, words in UNITS.items()} | {"seconds": "wall-clock time"}
UNIT_AXES = UNIT_TITLES | {
    "videos": "videos generated",
    "nfe": "network evaluations (NFE)",
    "tflops": "compute (TFLOP)",
    "seconds": "training time (s)",
}
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


def interval(value: Interval) -> str:
    """`+0.080 to +0.158`, `seeds alike`, or `no interval` where there are too few seeds."""
    if value.known:
        return f"{signed(value.low)} to {signed(value.high)}"
    return "seeds alike" if value.alike else "no interval"


def p_value(value: float) -> str:
    """`0.031`, `≤ 0.001`; one digit more where `0.050` would leave open on which side it lies."""
    if math.isnan(value):
        return NONE
    return "≤ 0.001" if value <= 0.001 else f"{value:.4f}" if f"{value:.3f}" == "0.050" else f"{value:.3f}"


def ratio(value: float) -> str:
    """A speed-up over a baseline: `1.42×`, or in words where a curve never reaches the target."""
    if math.isnan(value):
        return "neither reaches it"
    if value == 0:
        return "not reached"
    return "reached by it alone" if math.isinf(value) else f"{_times(value)}×"


def factor(value: float) -> str:
    """How many times: `3.4`, `39`, `390`."""
    return f"{value:.2g}" if value < 100 else f"{float(f'{value:.2g}'):,.0f}"


def _times(value: float) -> str:
    """Three significant digits at most: more would pretend."""
    return f"{value:.2f}" if value < 10 else f"{value:.3g}" if value < 100 else "over 100"


def bounds(low: float, high: float) -> str:
    """Bounds of a speed-up: `1.05 to 2.10`, `1.05 or more`, `2.10 or less`, `no bound`, or `no interval`."""
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    if math.isinf(high):
        return f"{_times(low)} or more" if low > 0 else "no bound"
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


def reward_kind(role: str) -> str:
    """What a panel says of its reward: whether methods were trained on it."""
    return "trained on" if role == "training" else ""


def metric_name(metric: str) -> str:
    """A training metric as an axis label."""
    if metric.startswith("reward/"):
        return f"{reward_name(metric.removeprefix('reward/'))} (rollouts)"
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ").replace("/", ": ")
