"""What all figures share: a grid of panels, lines with bands over seeds, and captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from analysis import style, text
from analysis.curves import final_values, run_status
from analysis.records import Records
from analysis.schema import default_baseline

WIDTH = 10.0
MANY_METHODS = 5
"""With more methods bands would hide the means and are left out, and only `HIGHLIGHTED` have colours."""

HIGHLIGHTED = 6
OTHER = style.Look("#c4c4c4", "", "-", 0.8)

INTERVAL_SEEDS = 5
"""From so many seeds bands are 95 % intervals. With fewer those are so wide (4.3 standard errors for three seeds)
that they hide each other, and the range of the seeds says what there is to see."""


def footer(run: Records, *sentences: str) -> str:
    """Suite, budget and seeds of a figure, then what else is to be said of it."""
    status = run_status(run)
    seeds = text.counts((len(run.seeds(method)) for method in run.methods), "seed")
    head = f"Suite {run.suite.name}, budget {run.budget} a run, {seeds} a method"
    finished = f"{status['counted'].sum()} of {text.count(len(status), 'run')} finished"
    return " ".join([f"{head} ({finished}).", *filter(None, sentences)])


def band_note(run: Records) -> str:
    """What lines and bands are in a figure, for a caption."""
    status = run_status(run)
    counts = status[status["counted"]].groupby("method").size()
    note, kinds = "Lines: mean over finished seeds", []
    if len(run.methods) <= MANY_METHODS:
        if ((counts > 1) & (counts < INTERVAL_SEEDS)).any():
            kinds.append("from the lowest to the highest seed")
        if (counts >= INTERVAL_SEEDS).any():
            kinds.append(f"its 95 % interval (Student's t, {INTERVAL_SEEDS} seeds or more)")
    return f"{note}; bands: {' or '.join(kinds)}." if kinds else f"{note}."


def looks(run: Records) -> dict[str, style.Look]:
    """A look for each method and the base; of many, only the baseline and those that end highest have colours."""
    if len(run.methods) <= MANY_METHODS:
        return style.looks(run.methods)
    ends = final_values(run)
    ends = ends[(ends["split"] == run.split) & (ends["reward"] == run.suite.headline)]
    best = ends.groupby("method")["final"].mean().sort_values(ascending=False).index
    baseline = run.question.baseline or default_baseline(run.methods)
    shown = list(dict.fromkeys([baseline, *best]))[:HIGHLIGHTED]
    return dict.fromkeys(run.methods, OTHER) | style.looks([name for name in run.methods if name in shown])


def grid(panels: int, height: float, columns: int = 4, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of `height` inches, and its axes."""
    columns = min(panels, 3 if panels in (3, 5, 6, 9) else columns)
    rows = math.ceil(panels / columns)
    drawn = style.figure(WIDTH, height * rows + style.HEADING + 0.6)
    axes = drawn.subplots(rows, columns, squeeze=False, sharey=share_y).flatten().tolist()
    for unused in axes[panels:]:
        unused.remove()
    return drawn, axes[:panels]


def finish(run: Records, drawn: Figure, heading: str, legend: Sequence[Line2D], *notes: str) -> Figure:
    """Heading, legend and footer around the panels, which do not repeat an axis label of the next one out."""
    places = {(at.rowspan.start, at.colspan.start): a for a in drawn.axes if (at := a.get_subplotspec())}
    labels = {place: (axes.get_xlabel(), axes.get_ylabel()) for place, axes in places.items()}
    for (row, column), axes in places.items():
        if labels.get((row + 1, column), ("", ""))[0] == axes.get_xlabel():
            axes.set_xlabel("")
        if labels.get((row, column - 1), ("", ""))[1] == axes.get_ylabel():
            axes.set_ylabel("")
    rows = math.ceil(len(legend) / style.legend_columns(legend, WIDTH))
    drawn.set_figheight(drawn.get_figheight() + rows * style.LEGEND_ROW)
    style.surround(drawn, heading, footer(run, *notes), legend)
    return drawn


def handles(run: Records, base: bool = False) -> list[Line2D]:
    """Legend entries of methods, those without a colour as one, and of the base model's line."""
    given = looks(run)
    every = {name: given[name] for name in run.methods}
    named = {name: look for name, look in every.items() if look != OTHER}
    named |= {"other methods": OTHER} if len(named) < len(every) else {}
    named |= {"base model": style.BASE_LOOK} if base else {}
    return [line(name, of.colour, of.line, marker=of.marker, lw=of.width) for name, of in named.items()]


def line(label: str, colour: str = style.INK, kind: str = "-", **look: Any) -> Line2D:
    """A legend entry."""
    return Line2D([], [], color=colour, ls=kind, label=label, ms=5, **look)


def panel(
    axes: Axes, name: str, kind: str = "", below: str = "", left: str = "", whole: bool = False
) -> None:
    """Title at the left, `kind` at the right, axis labels, and few round ticks; `whole` numbers on the x axis."""
    style.tidy(axes)
    axes.set_title(name, loc="left", fontsize=10, fontweight="bold", color=style.INK)
    axes.set_title(kind, loc="right", fontsize=8, color="#555555")
    axes.set_xlabel(below, fontsize=9, color=style.INK)
    axes.set_ylabel(left, fontsize=9, color=style.INK)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=whole, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def means(axes: Axes, run: Records, frame: pd.DataFrame, by: str) -> None:
    """A line a method through `mean` at the values of column `by`, with its band. Columns as of `curves.bands`."""
    for method, look in looks(run).items():
        curve = frame[frame["method"] == method].sort_values(by)
        if not len(curve):
            continue
        x = curve[by].to_numpy()
        kind: dict[str, Any] = {"ls": look.line, "marker": look.marker, "ms": 4 * (len(x) <= 20)}
        # Wide lines lie above thin ones: those with a colour above the others.
        kind |= {"lw": look.width, "zorder": 2 + look.width}
        axes.plot(x, curve["mean"], color=look.colour, label=method, **kind)
        if len(run.methods) <= MANY_METHODS:
            band(axes, x, curve, look.colour)


def band(axes: Axes, x: np.ndarray, curve: pd.DataFrame, colour: str) -> None:
    """The interval, or with few seeds their range, as a light fill between thin lines; nothing for one seed."""
    least = curve["n"].min()
    if least < 2:
        return
    edges = ["low", "high"] if least >= INTERVAL_SEEDS else ["least", "most"]
    axes.fill_between(x, *curve[edges].to_numpy().T, color=colour, alpha=0.10, lw=0, zorder=1)
    axes.plot(x, curve[edges], color=colour, lw=0.5, alpha=0.55, zorder=2)


def estimate(axes: Axes, y: float, value: float, low: float, high: float, colour: str, **mark: Any) -> None:
    """A mark at a value, its interval (if known) as a line through it."""
    axes.plot([low, high], [y, y], color=colour, lw=1.6, zorder=2)
    axes.plot(value, y, color=colour, zorder=3, **mark)


def rows(axes: Axes, names: Sequence[str], origin: float) -> None:
    """Named rows from top to bottom instead of a y axis, and a dotted line at what means no effect."""
    axes.axvline(origin, color=style.BASE_LOOK.colour, lw=1.2, ls=":", zorder=1)
    axes.set_yticks(range(len(names)), list(names), fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def times(axes: Axes) -> None:
    """A logarithmic x axis of ratios, as in `2×`."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.xaxis.set_minor_formatter(NullFormatter())


def cut(axes: Axes, values: pd.Series) -> None:
    """Limits from values, with a margin; a wider band may be cut off."""
    low, high = float(values.min()), float(values.max())
    if math.isfinite(low) and math.isfinite(high):
        spread = max(high - low, 1e-3 * max(abs(high), 1e-3))
        axes.set_ylim(low - 0.12 * spread, high + 0.12 * spread)
