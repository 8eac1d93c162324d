"""What guidance gives and what becomes of it, as frames of numbers and as a reader sees them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import text
from analysis.guidance import Accuracy, Gap
from analysis.statistics import Interval
from analysis.tables.text_table import TextTable

_ONE_START = (
    "Every seed starts from one evaluation of the base policy, a group of rollouts of each of a few prompts "
    "(evaluation.diagnostic_prompts): the error of that is in no interval here."
)


def _columns(name: str, value: Interval) -> dict[str, float]:
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}


def gaps_table(found: Sequence[Gap]) -> tuple[pd.DataFrame, TextTable]:
    """Guided less unguided reward at the first and last measurement, tidy and as text."""
    frame = pd.DataFrame(
        [
            {
                "method": entry.method,
                "reward": entry.reward,
                "unguided_first": entry.unguided[0],
                "unguided_last": entry.unguided[1],
                **_columns("gap_first", entry.first),
                **_columns("gap_last", entry.last),
                **_columns("closed", entry.closed),
                "seeds": entry.closed.n,
                "verdict": entry.verdict,
            }
            for entry in found
        ]
    )
    rows = tuple(
        (
            entry.method,
            text.reward_name(entry.reward),
            f"{text.number(entry.unguided[0])} → {text.number(entry.unguided[1])}",
            _cell(entry.first),
            _cell(entry.last),
            _cell(entry.closed),
            entry.verdict,
        )
        for entry in found
    )
    note = (
        "Rollouts of the same policy from the same noise, with guidance at its full strength and without. Gap: guided "
        "less unguided reward, with Student's 95 % interval over seeds; each interval stands for itself. It closes as "
        "the policy takes over what guidance gives, and also where guidance no longer gives anything, or where "
        f"learning makes it needless. {_ONE_START}"
    )
    columns = ("method", "reward", "unguided", "gap at the start", "gap at the end", "closed by", "")
    return frame, TextTable("Guided and unguided rollouts", columns, rows, note)


def accuracies_table(found: Sequence[Accuracy]) -> tuple[pd.DataFrame, TextTable]:
    """Pairwise accuracy of the process reward by noise level, at the start and at the end, tidy and as text."""
    frame = pd.DataFrame(
        [
            {
                "method": entry.method,
                "sigma": entry.sigma,
                **_columns("first", entry.first),
                **_columns("last", entry.last),
                **_columns("change", entry.change),
                "seeds": entry.change.n,
            }
            for entry in found
        ]
    )
    rows = tuple(
        (
            entry.method,
            f"{entry.sigma:.3g}",
            text.number(entry.first.mean),
            _cell(entry.last, plus=False),
            _cell(entry.change),
        )
        for entry in found
    )
    note = (
        "Share of pairs of one prompt's videos that the process reward orders as the training reward does; 0.5 is "
        "chance. On the policy's own unguided rollouts, at noise level σ (1 is noise, 0 the video). Student's 95 % "
        "intervals over seeds; each stands for itself. Where a prompt's videos have become more alike, a process "
        f"reward that has not changed orders fewer of their pairs rightly. {_ONE_START}"
    )
    columns = ("method", "noise level σ", "base policy", "end of training", "change")
    return frame, TextTable("Pairwise accuracy of the process reward", columns, rows, note)


def _cell(value: Interval, plus: bool = True) -> str:
    show = text.signed if plus else text.number
    if not value.known or not value.half_width > 1e-12:
        return show(value.mean)
    return f"{show(value.mean)}\n{show(value.low)} to {show(value.high)}"
