"""What each method used: in every unit, and by component."""

from __future__ import annotations

import math

import pandas as pd

from analysis import text
from analysis.costs import Spending
from analysis.records import Records
from analysis.schema import CHARGED, EVALUATION, PEAK_MEMORY, PRM_TRAINING, UNITS, WHOLE
from analysis.tables.text_table import TextTable


def budget_tables(run: Records, found: Spending) -> list[TextTable]:
    """What each method used in every unit; and, with a ledger, its TFLOP and seconds by component."""
    units = [unit for unit in UNITS if len(found.totals) and found.totals[unit].notna().any()]
    if not units:
        return []
    totals = found.totals[units]
    rows = [(str(method), *map(text.cost, row, units)) for method, row in totals.iterrows()]
    if len(rows) > 1:
        rows.append(("most / least", *(f"{ratio:.2f}" for ratio in totals.max() / totals.min())))
    columns = ["method", *(text.UNIT_TITLES[unit] + ("*" if unit == found.unit else "") for unit in units)]
    if len(found.parts):
        columns.append("peak memory")
        peaks = _wide(found, PEAK_MEMORY).reindex(columns=[WHOLE], index=[row[0] for row in rows])[WHOLE]
        shown = (text.NONE if math.isnan(peak) else f"{peak:,.0f} MB" for peak in peaks)
        rows = [
            (*row, "" if row[0] == "most / least" else peak) for row, peak in zip(rows, shown, strict=True)
        ]
    table = TextTable("Compute of one seed", tuple(columns), tuple(rows), _budget_note(run, found))
    return [table, *(entry for entry in map(_components, [found] * 2, ("tflops", "seconds")) if entry.rows)]


def _wide(found: Spending, quantity: str) -> pd.DataFrame:
    """One quantity of the ledger: index method, columns components."""
    parts = found.parts[found.parts["quantity"] == quantity]
    return parts.pivot(index="method", columns="component", values="value")


def _budget_note(run: Records, found: Spending) -> str:
    note = f"Means over finished seeds. * unit of the budget ({run.budget} a run)"
    if not math.isnan(found.spread) and len(found.totals) > 1:
        note += (
            "; all methods used the same amount of it"
            if found.matched
            else f"; methods did NOT use the same amount of it: the most is {1 + found.spread:.2f} times the least"
        )
    note += ". Evaluation is not counted"
    if PRM_TRAINING in set(found.parts["component"]):
        paid = "is counted" if run.charges_prm else "is not counted (--charge-prm counts it)"
        note += f"; training the process reward model {paid}"
    if "seconds" in found.totals and found.unit != "seconds":
        note += ". Wall-clock time is this machine's, which other jobs may share"
    return f"{note}."


def _components(found: Spending, quantity: str) -> TextTable:
    wide = _wide(found, quantity).reindex(index=found.totals.index)
    names = [name for name in CHARGED if name in wide]
    rows = []
    wide = wide.reindex(columns=[*names, EVALUATION, PRM_TRAINING])
    for method, values in zip(wide.index, wide.to_numpy(), strict=True):
        used = dict(zip(wide.columns, map(float, values), strict=True))
        total = sum(used[name] for name in names if not math.isnan(used[name]))
        shares = {name: f" ({text.percent(used[name] / total)})" for name in names if used[name] > 0}
        cells = [text.cost(used[name], quantity) + shares.get(name, "") for name in used]
        rows.append((str(method), *cells[: len(names)], text.cost(total, quantity), *cells[len(names) :]))
    parts = (name.replace("_", " ") for name in names)
    columns = ("method", *parts, "sum", "evaluation", "training the process reward")
    title = "TFLOP by component" if quantity == "tflops" else "Seconds by component"
    note = "Of one seed, means over finished seeds; shares of the sum in brackets. The last two columns are beside it."
    return TextTable(title, columns, tuple(rows) if names else (), note)
