"""What was run: seeds that did not finish, and the settings that a comparison of the methods is about."""

from __future__ import annotations

import pandas as pd

from analysis import text
from analysis.curves import run_status
from analysis.records import Records
from analysis.settings import differing
from analysis.tables.text_table import TextTable


def status_table(run: Records) -> TextTable:
    """Seeds that did not finish, with the error that stopped them."""
    status = run_status(run)
    columns = {
        "method": lambda row: str(row["method"]),
        "seed": lambda row: str(row["seed"]),
        "status": lambda row: str(row["status"]),
        "iterations": lambda row: text.NONE if pd.isna(row["iterations"]) else f"{row['iterations']:.0f}",
        "error": lambda row: str(row["error"]) or text.NONE,
    }
    left_out = status[~status["counted"]].to_dict("records")
    return TextTable.of("Seeds that did not finish", left_out, columns)


def methods_table(run: Records) -> tuple[pd.DataFrame, TextTable]:
    """One row a field, one column a method; empty where settings were not recorded or there is one method."""
    entries = run.settings.get("method_settings") or {}
    frame = differing({str(name): entry for name, entry in entries.items()})
    rows = tuple((str(field), *map(_shown, values)) for field, *values in frame.itertuples(name=None))
    note = "Everything else is equal: model, prompts, rewards, evaluation, budget and all settings not listed here."
    return frame, TextTable("Settings in which the methods differ", ("field", *frame.columns), rows, note)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
