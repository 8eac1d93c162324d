"""What each method used: in every unit, and by component."""

from __future__ import annotations

import math
from functools import partial

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
    shown = pd.DataFrame({unit: totals[unit].map(partial(text.cost, unit=unit)) for unit in units})
    if len(found.parts):
        peaks = _wide(found, PEAK_MEMORY).reindex(columns=[WHOLE], index=totals.index)[WHOLE]
        shown["peak memory"] = [text.NONE if math.isnan(peak) else f"{peak:,.0f} MB" for peak in peaks]
    if len(totals) > 1:
        shown.loc["most / least"] = (totals.max() / totals.min()).map("{:.2f}".format)
    titles = {unit: text.UNIT_TITLES[unit] + ("*" if unit == found.unit else "") for unit in units}
    main = _table("Compute of one seed", shown.rename(columns=titles).fillna(""), _budget_note(run, found))
    return [main, *(table for table in map(_components, [found] * 2, ("tflops", "seconds")) if table.rows)]


def _table(title: str, shown: pd.DataFrame, note: str) -> TextTable:
    return TextTable(title, ("method", *shown.columns), tuple(shown.itertuples(name=None)), note)


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
    heading = "TFLOP by component" if quantity == "tflops" else "Seconds by component"
    if not names:
        return TextTable(heading, (), ())
    total, cost = wide[names].sum(axis=1), partial(text.cost, unit=quantity)
    shown = pd.DataFrame(index=wide.index)
    for name in names:
        shares = (wide[name] / total).map(text.percent)
        shown[name.replace("_", " ")] = wide[name].map(cost) + (" (" + shares + ")").where(wide[name] > 0, "")
    shown["sum"] = total.map(cost)
    for name, title in ((EVALUATION, "evaluation"), (PRM_TRAINING, "training the process reward")):
        shown[title] = wide.reindex(columns=[name])[name].map(cost)
    note = "Of one seed, means over finished seeds; shares of the sum in brackets. The last two columns are beside it."
    return _table(heading, shown, note)
