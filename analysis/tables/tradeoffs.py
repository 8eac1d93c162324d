"""Methods at equal reward, as numbers and as a reader sees them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import text
from analysis.records import Records
from analysis.tables.text_table import TextTable, tidy
from analysis.tradeoffs import QUANTITIES, AtReward


def tradeoffs_table(run: Records, found: Sequence[AtReward]) -> tuple[pd.DataFrame, TextTable]:
    """One row a method: what it had spent of diversity and distance when it reached the level."""
    frame = tidy(
        {"method": entry.method, "reward": entry.reward, "reached": entry.reached, "seeds": entry.seeds}
        | entry.values
        for entry in found
    )
    rows = tuple(
        (
            entry.method,
            f"{entry.reached} of {entry.seeds}",
            *(text.cell(entry.values[name], text.number) for name in QUANTITIES),
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
