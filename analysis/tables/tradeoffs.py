"""Methods at equal reward, as numbers and as a reader sees them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import text
from analysis.records import Records
from analysis.statistics import Interval
from analysis.tables.text_table import TextTable
from analysis.tradeoffs import QUANTITIES, AtReward


def tradeoffs_table(run: Records, found: Sequence[AtReward]) -> tuple[pd.DataFrame, TextTable]:
    """One row a method: what it had spent of diversity and distance when it reached the level."""
    frame = pd.DataFrame(
        [
            {"method": entry.method, "reward": entry.reward, "reached": entry.reached, "seeds": entry.seeds}
            | {
                f"{name}{end}": number
                for name, value in entry.values.items()
                for end, number in (("", value.mean), ("_low", value.low), ("_high", value.high))
            }
            for entry in found
        ]
    )
    rows = tuple(
        (
            entry.method,
            f"{entry.reached} of {entry.seeds}",
            *(_cell(entry.values[name]) for name in QUANTITIES),
        )
        for entry in found
    )
    level = text.number(found[0].reward) if found else ""
    reward = text.reward_name(run.suite.headline)
    note = (
        f"Each seed where its {reward} on held-out prompts first reaches {level}, interpolated between evaluations; "
        "means with Student's 95 % interval over the seeds that get there. Training rewards: gain on training prompts "
        "in standard deviations of the base model's videos. A method of which some seeds never get there is flattered."
    )
    columns = ("method", "seeds that reach it", "gain in training rewards", "diversity", "KL to base (nats)")
    return frame, TextTable(f"At equal reward: {reward} {level}", columns, rows, note)


def _cell(value: Interval) -> str:
    if not value.n or pd.isna(value.mean):
        return text.NONE
    shown = text.number(value.mean)
    return f"{shown}\n{text.number(value.low)} to {text.number(value.high)}" if value.known else shown
