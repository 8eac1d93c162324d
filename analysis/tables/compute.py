"""What each method used: in every unit, and by component."""

from __future__ import annotations

import math

import numpy as np

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
    rows = [
        (str(method), *(text.cost(float(row[unit]), unit) for unit in units), *_memory(found, str(method)))
        for method, row in found.totals.iterrows()
    ]
    memory = ("peak memory",) if len(found.parts) else ()
    if len(rows) > 1:
        ratios = (found.totals[unit].max() / found.totals[unit].min() for unit in units)
        rows.append(("most / least", *(f"{ratio:.2f}" for ratio in ratios), *("" for _ in memory)))
    names = (text.UNIT_TITLES[unit] + ("*" if unit == found.unit else "") for unit in units)
    table = TextTable(
        "Compute of one seed", ("method", *names, *memory), tuple(rows), _budget_note(run, found)
    )
    return [table, *(entry for entry in (_components(found, q) for q in ("tflops", "seconds")) if entry)]


def _memory(found: Spending, method: str) -> tuple[str, ...]:
    if not len(found.parts):
        return ()
    memory = _part(found, method, WHOLE, PEAK_MEMORY)
    return (text.NONE if math.isnan(memory) else f"{memory:,.0f} MB",)


def _part(found: Spending, method: str, component: str, quantity: str) -> float:
    parts = found.parts
    chosen = (parts["method"] == method) & (parts["component"] == component) & (parts["quantity"] == quantity)
    return float(parts.loc[chosen, "value"].sum()) if chosen.any() else math.nan


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


def _components(found: Spending, quantity: str) -> TextTable | None:
    present = set(found.parts.loc[found.parts["quantity"] == quantity, "component"])
    names = [name for name in CHARGED if name in present]
    if not names:
        return None
    rows = []
    for method in found.totals.index:
        values = {
            name: _part(found, str(method), name, quantity) for name in (*names, EVALUATION, PRM_TRAINING)
        }
        whole = float(np.nansum([values[name] for name in names]))
        cells = [_share(values[name], whole, quantity) for name in names]
        rest = [text.cost(values[name], quantity) for name in (EVALUATION, PRM_TRAINING)]
        rows.append((str(method), *cells, text.cost(whole, quantity), *rest))
    parts = (name.replace("_", " ") for name in names)
    columns = ("method", *parts, "sum", "evaluation", "training the process reward")
    title = "TFLOP by component" if quantity == "tflops" else "Seconds by component"
    note = "Of one seed, means over finished seeds; shares of the sum in brackets. The last two columns are beside it."
    return TextTable(title, columns, tuple(rows), note)


def _share(value: float, whole: float, quantity: str) -> str:
    if math.isnan(value):
        return text.NONE
    return (
        f"{text.cost(value, quantity)} ({text.percent(value / whole)})"
        if whole > 0
        else text.cost(value, quantity)
    )
