"""What guidance gives and what becomes of it, as frames of numbers and as a reader sees them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import text
from analysis.guidance import Accuracy, Gap
from analysis.tables.text_table import TextTable, tidy

_ONE_START = (
    "Every seed starts from one evaluation of the base policy, a group of rollouts of each of a few prompts "
    "(evaluation.diagnostic_prompts): the error of that is in no interval here."
)


def gaps_table(found: Sequence[Gap]) -> tuple[pd.DataFrame, TextTable]:
    """Guided less unguided reward at the first and last measurement, tidy and as text."""
    frame = tidy(
        {"method": entry.method, "reward": entry.reward}
        | {"unguided_first": entry.unguided[0], "unguided_last": entry.unguided[1]}
        | {"gap_first": entry.first, "gap_last": entry.last, "closed": entry.closed}
        | {"seeds": entry.closed.n, "verdict": entry.verdict}
        for entry in found
    )
    rows = tuple(
        (
            entry.method,
            text.reward_name(entry.reward),
            text.change(*entry.unguided),
            *(text.cell(value) for value in (entry.first, entry.last, entry.closed)),
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
    frame = tidy({**vars(entry), "seeds": entry.change.n} for entry in found)
    rows = tuple(
        (
            entry.method,
            f"{entry.sigma:.3g}",
            text.number(entry.first.mean),
            text.cell(entry.last, text.number),
            text.cell(entry.change),
        )
        for entry in found
    )
    note = (
        "Share of pairs of one prompt's videos that the process reward orders as the training reward does; 0.5 is "
        "chance. On the policy's own unguided rollouts, at noise level σ (1 is noise, 0 the video). Student's 95 % "
        "intervals over seeds; each stands for itself. Where a prompt's videos have become more alike, a process "
        f"reward that has not changed orders fewer of their pairs correctly. {_ONE_START}"
    )
    columns = ("method", "noise level σ", "base policy", "end of training", "change")
    return frame, TextTable("Pairwise accuracy of the process reward", columns, rows, note)
