"""The settings in which methods differ: what a comparison between them is about."""

from __future__ import annotations

import pandas as pd

from analysis.records import Records
from analysis.settings import differing
from analysis.tables.text_table import TextTable


def methods_table(run: Records) -> tuple[pd.DataFrame, TextTable]:
    """One row a field, one column a method; empty where settings were not recorded or there is one method."""
    entries = run.settings.get("method_settings") or {}
    frame = differing({str(name): entry for name, entry in entries.items()})
    rows = tuple(
        (str(field), *(_shown(value) for value in values)) for field, *values in frame.itertuples(name=None)
    )
    note = "Everything else is equal: model, prompts, rewards, evaluation, budget and all settings not listed here."
    return frame, TextTable("Settings in which the methods differ", ("field", *frame.columns), rows, note)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
