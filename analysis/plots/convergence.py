"""Figures of convergence: the headline reward in every unit of compute, and speed-ups with their intervals."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from analysis import style, text
from analysis.convergence import SPANS, Convergence
from analysis.curves import seed_means
from analysis.plots import panels
from analysis.plots.rewards import reward_panel
from analysis.records import Records

FEW_RATIOS = 4
"""With more methods than this the figure of speed-ups shows the budget's unit alone."""

_LEAST, _MOST = 0.1, 10.0


def convergence_figure(run: Records, found: Convergence) -> Figure:
    """The headline reward, on the prompts that answer the question, against compute in each unit."""
    curves = seed_means(run)
    here = curves[(curves["split"] == found.split) & (curves["reward"] == found.reward)]
    drawn, axes = panels.grid(len(found.units), 2.5, columns=3)
    ends = not math.isnan(found.end) and len(run.methods) > 1
    name = text.reward_name(found.reward)
    for each, unit in zip(axes, found.units, strict=True):
        if ends:
            each.axhline(found.end, color=style.FAINT, lw=1, ls=(0, (6, 3)), zorder=1)
        reward_panel(each, run, here, unit)
        kind = "the budget's unit" if unit == run.budget_unit else ""
        whole = unit == "iterations"
        panels.panel(each, text.UNIT_TITLES[unit], kind, text.UNIT_AXES[unit], name, whole)
        each.set_xlim(left=0)
        # One seed among many methods should not flatten all the others: their bands are not drawn.
        many = len(run.methods) > panels.MANY_METHODS
        panels.cut(each, here.groupby(["method", "iteration"])["value"].mean() if many else here["value"])
    end = f"Dashed grey line: where {found.baseline} ends." if ends else ""
    heading = f"{name[:1].upper()}{name[1:]} on {text.SPLIT_NAMES[found.split]} against compute, counted in each way"
    return panels.finish(run, drawn, heading, panels.handles(run, base=True), panels.band_note(run), end)


def speed_figure(run: Records, found: Convergence) -> Figure:
    """Speed-ups over the baseline on a logarithmic axis: a panel a range, a row a method and unit."""
    methods = list(dict.fromkeys(entry.method for entry in found.speeds))
    units = found.units if len(methods) <= FEW_RATIOS else (found.unit,)
    rows = [(unit, method) for unit in units for method in methods]
    names = [method if len(units) == 1 else f"{method}, {text.UNIT_TITLES[unit]}" for unit, method in rows]
    drawn, axes = panels.grid(len(SPANS), 0.75 + 0.24 * max(len(rows), 4), columns=3, share_y=True)
    shown = [entry for entry in found.speeds if entry.unit in units]
    bounds = [bound for e in shown for bound in (e.ratio.low, e.ratio.value, e.ratio.high) if bound > 0]
    finite = [0.7, 1.5, *filter(math.isfinite, bounds)]
    least, most = max(min(finite) / 1.15, _LEAST), min(max(finite) * 1.15, _MOST)
    look = panels.looks(run)
    for each, span in zip(axes, SPANS, strict=True):
        for entry in (entry for entry in shown if entry.span == span):
            ratio, mark = entry.ratio, look[entry.method]
            low, high = np.clip((ratio.low, ratio.high), least / 2, 2 * most)  # an open end leaves the panel
            value = ratio.value if least <= ratio.value <= most else math.nan
            row = rows.index((entry.unit, entry.method))
            panels.estimate(each, row, value, low, high, mark.colour, marker=mark.marker or "o", ms=6)
        start, end = SPANS[span]
        kind = f"{100 * start:.0f} to {text.percent(end)} of the gain"
        panels.panel(each, span, kind, f"cost of {found.baseline} / cost of the method")
        panels.rows(each, names, origin=1)
        panels.times(each)
        each.set_xlim(least, most)
    note = (
        f"Ranges are shares of {found.baseline}'s gain; above 1× a method needs less than it. Lines: 95 % intervals "
        "over seeds, widened for the number of methods; one that ends at a panel's edge goes on beyond it. No mark: "
        "the mean curve does not get through the range."
    )
    if len(units) == 1:
        note = f"Cost in {text.UNIT_TITLES[found.unit]}. {note}"
    on = f"{text.reward_name(found.reward)} on {text.SPLIT_NAMES[found.split]}"
    return panels.finish(run, drawn, f"Speed-up over {found.baseline}: {on}", [], note)
