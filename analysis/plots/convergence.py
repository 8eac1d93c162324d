"""Figures of convergence: the headline reward in every unit of compute, and speed-ups with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import style, text
from analysis.convergence import SPANS, Convergence, Speed
from analysis.costs import cumulative_costs
from analysis.curves import seed_means
from analysis.plots.panels import MANY_METHODS, band_note, cut, finish, grid, handles, panel
from analysis.plots.rewards import reward_curves, reward_panel
from analysis.records import Records

PUBLISHED = 1.66
"""Euphonium's claim (arXiv 2602.04928), in training steps."""

PUBLISHED_FOR = "euphonium"

FEW_RATIOS = 4
"""With more methods than this the figure of speed-ups shows the budget's unit alone."""

_TICKS = (0.1, 0.2, 0.33, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_LEAST, _MOST = 0.1, 10.0


def write_curves(run: Records, found: Convergence, folder: Path) -> dict[str, Path]:
    """Draw all figures of convergence as PNG and SVG: name -> the PNG.

    `convergence` shows the headline reward in each unit, `speed_up` the speed-ups, `rewards_<split>` every reward
    against the budget's unit, `rewards_<split>_<unit>` against another. A unit that is iterations times one
    factor for all methods gets none of its own.
    """
    drawn: dict[str, Figure] = {}
    if (seed_means(run)["iteration"] > 0).any():
        drawn["convergence"] = convergence_figure(run, found)
        for unit in telling_units(run, found.units):
            name = f"rewards_{found.split}" + ("" if unit == found.unit else f"_{unit}")
            drawn[name] = reward_curves(run, found.split, unit)
    if found.speeds:
        drawn["speed_up"] = speed_figure(run, found)
    return {name: style.save(figure, folder, name)[0] for name, figure in drawn.items()}


def telling_units(run: Records, units: Sequence[str]) -> list[str]:
    """Iterations, the budget's unit, and those in which an iteration of one method costs more than of another."""
    costs = cumulative_costs(run)
    last = costs[costs["iteration"] > 0].groupby(["method", "seed"])[list(units)].max()
    each = last.div(last["iterations"], axis=0) if len(last) else last
    return [
        unit
        for unit in units
        if unit in ("iterations", run.budget_unit) or each[unit].max() > 1.01 * each[unit].min()
    ]


def convergence_figure(run: Records, found: Convergence) -> Figure:
    """The headline reward, on the prompts that answer the question, against compute in each unit."""
    curves = seed_means(run)
    here = curves[(curves["split"] == found.split) & (curves["reward"] == found.reward)]
    drawn, axes = grid(len(found.units), 2.5, len(run.methods) + 1, columns=3)
    ends = not math.isnan(found.end) and len(run.methods) > 1
    name = text.reward_name(found.reward)
    for each, unit in zip(axes, found.units, strict=True):
        if ends:
            each.axhline(found.end, color=style.FAINT, lw=1, ls=(0, (6, 3)), zorder=1)
        reward_panel(each, run, here, unit)
        kind = "the budget's unit" if unit == run.budget_unit else ""
        panel(each, text.UNIT_TITLES[unit], kind, text.UNIT_AXES[unit], name, whole=unit == "iterations")
        each.set_xlim(left=0)
        # One seed among many methods should not flatten all the others: their bands are not drawn.
        many = len(run.methods) > MANY_METHODS
        cut(each, here.groupby(["method", "iteration"])["value"].mean() if many else here["value"])
    end = f"Dashed grey line: where {found.baseline} ends." if ends else ""
    heading = f"{name[:1].upper()}{name[1:]} on {text.SPLIT_NAMES[found.split]} against compute, counted in each way"
    return finish(run, drawn, heading, handles(run, base=True), band_note(run), end)


def speed_figure(run: Records, found: Convergence) -> Figure:
    """Speed-ups over the baseline on a logarithmic axis: a panel a range, a row a unit (or, for many, a method)."""
    methods = list(dict.fromkeys(entry.method for entry in found.speeds))
    by_unit = len(methods) <= FEW_RATIOS
    units = list(found.units) if by_unit else [run.budget_unit]
    rows = units if by_unit else methods
    height = 0.75 + 0.2 * max(len(rows) * (len(methods) if by_unit else 1.5), 4)
    drawn, axes = grid(len(SPANS), height, len(methods), columns=3, share_y=True)
    look = style.looks(run.methods)
    shown = [entry for entry in found.speeds if entry.unit in units]
    scale = _scale(shown)
    for each, span in zip(axes, SPANS, strict=True):
        each.axvline(1, color=style.BASE_LOOK.colour, lw=1.2, ls=":", zorder=1)
        for entry in (entry for entry in shown if entry.span == span):
            row = float(rows.index(entry.unit if by_unit else entry.method))
            if by_unit:
                row += (methods.index(entry.method) - (len(methods) - 1) / 2) * 0.7 / len(methods)
            _ratio(each, entry, row, look[entry.method], scale)
        low, high = SPANS[span]
        kind = f"{100 * low:.0f} to {text.percent(high)} of {found.baseline}'s gain"
        panel(each, span, kind, f"cost of {found.baseline} / cost of the method")
        names = [text.UNIT_TITLES[unit] for unit in units] if by_unit else methods
        each.set_yticks(range(len(rows)), names, fontsize=9)
        each.grid(visible=False, axis="y")
        _log_ticks(each, scale)
        if by_unit and PUBLISHED_FOR in methods:
            each.plot(PUBLISHED, rows.index("iterations") - 0.44, marker="v", ms=5, color=style.INK, zorder=5)
    axes[0].set_ylim(len(rows) - 0.45, -0.55)
    on = f"{text.reward_name(found.reward)} on {text.SPLIT_NAMES[found.split]}"
    note = _ratio_note(run, found, units, methods)
    return finish(run, drawn, f"Speed-up over {found.baseline}: {on}", handles(run, methods), note)


def _ratio_note(run: Records, found: Convergence, units: Sequence[str], methods: Sequence[str]) -> str:
    counted = "" if len(units) > 1 else f"Cost in {text.UNIT_TITLES[run.budget_unit]}. "
    note = (
        f"{counted}Above 1× a method needs less than {found.baseline}. Lines: 95 % intervals over seeds, widened for "
        "the number of methods; an arrow goes on beyond the scale, a dotted line has no bound on either side. "
        "No mark: the mean curve does not get through the range."
    )
    if len(units) > 1 and PUBLISHED_FOR in methods:
        note += f" Triangle: the published {PUBLISHED}× in training steps."
    return note


def _ratio(axes: Axes, entry: Speed, y: float, look: style.Look, scale: tuple[float, float]) -> None:
    """A point with its interval; an arrow where that goes on beyond the scale, dotted where it has no bound."""
    low, high = scale
    ratio = entry.ratio
    if ratio.known and ratio.low == 0 and math.isinf(ratio.high):
        axes.plot([low, high], [y, y], color=look.colour, lw=1, ls=":", alpha=0.7, zorder=2)
    elif ratio.known:
        ends = [min(max(ratio.low, low), high), max(min(ratio.high, high), low)]
        axes.plot(ends, [y, y], color=look.colour, lw=1.6, zorder=2)
        for beyond, end, marker in ((ratio.low < low, low, "<"), (ratio.high > high, high, ">")):
            if beyond:
                axes.plot(end, y, marker=marker, ms=5, color=look.colour, clip_on=False, zorder=3)
    if low <= ratio.value <= high:
        axes.plot(ratio.value, y, marker=look.marker, ms=6, color=look.colour, zorder=4)


def _scale(shown: Sequence[Speed]) -> tuple[float, float]:
    """Limits of the axis: what the finite bounds of all entries need, at least the published number and 1."""
    ends = np.array([[entry.ratio.low, entry.ratio.high, entry.ratio.value] for entry in shown]).ravel()
    ends = ends[np.isfinite(ends) & (ends > 0)]
    low, high = min([*ends, 0.7]) / 1.15, max([*ends, PUBLISHED]) * 1.15
    return max(low, _LEAST), min(high, _MOST)


def _log_ticks(axes: Axes, scale: tuple[float, float]) -> None:
    low, high = scale
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    every, one = math.ceil(len(ticks) / 6), ticks.index(1.0)
    kept = [tick for place, tick in enumerate(ticks) if (place - one) % every == 0]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_xlim(low, high)
