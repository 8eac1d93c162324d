"""What all figures share: a grid of panels, lines with bands over seeds, and captions."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import style, text
from analysis.curves import run_status
from analysis.records import Records

WIDTH = 10.0
MANY_METHODS = 5
"""With more methods bands would hide the means and are left out."""

INTERVAL_SEEDS = 5
"""From so many seeds bands are 95 % intervals. With fewer those are so wide (4.3 standard errors for three seeds)
that they hide each other, and the range of the seeds says what there is to see."""


def footer(run: Records, *sentences: str) -> str:
    """Suite, budget and seeds of a figure, then what else is to be said of it."""
    status = run_status(run)
    counted = int(status["counted"].astype(bool).sum()) if len(status) else 0
    head = f"Suite {run.suite.name}, budget {run.budget} a run, {seeds_asked(run)} a method"
    return " ".join([f"{head} ({counted} of {len(status)} runs finished).", *filter(None, sentences)])


def judges_note(run: Records) -> str:
    """Which rewards only judge, for a caption."""
    return "Rewards not marked as trained on only judge." if run.suite.held_out else ""


def seeds_asked(run: Records) -> str:
    """`3 seeds`, or `3 to 5 seeds` where methods differ."""
    counts = sorted({len(run.seeds(method)) for method in run.methods} or {0})
    return text.count(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def grid(
    panels: int, height: float, labels: int, columns: int = 4, share_y: bool = False
) -> tuple[Figure, list[Axes], int]:
    """A figure with so many panels of `height` inches below a legend of `labels`; its axes, and its columns."""
    columns = min(panels, 3 if panels in (3, 5, 6, 9) else columns)
    rows = math.ceil(panels / columns)
    legend = math.ceil(labels / style.LABELS_A_ROW) * style.LEGEND_ROW
    drawn = style.figure(WIDTH, height * rows + style.HEADING + legend + 0.6)
    axes = drawn.subplots(rows, columns, squeeze=False, sharey=share_y).flatten().tolist()
    for unused in axes[panels:]:
        unused.set_axis_off()
    return drawn, axes[:panels], columns


def handles(run: Records, methods: Iterable[str] | None = None) -> list[Line2D]:
    """Legend entries of methods."""
    look = style.looks(run.methods)
    return [
        Line2D(
            [], [], color=look[name].colour, marker=look[name].marker, ls=look[name].line, label=name, ms=5
        )
        for name in (run.methods if methods is None else methods)
    ]


def base_handle() -> Line2D:
    """Legend entry of the base model's line."""
    return Line2D([], [], color=style.BASE_LOOK.colour, ls=":", label="base model")


def panel(
    axes: Axes, name: str, kind: str = "", below: str = "", left: str = "", whole: bool = False
) -> None:
    """Title at the left, `kind` at the right, axis labels, and few round ticks; `whole` numbers on the x axis."""
    style.tidy(axes)
    axes.set_title(name, loc="left", fontsize=10, fontweight="bold", color=style.INK)
    if kind:
        axes.set_title(kind, loc="right", fontsize=8, color="#555555")
    if below:
        axes.set_xlabel(below, fontsize=9, color=style.INK)
    if left:
        axes.set_ylabel(left, fontsize=9, color=style.INK)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=whole, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def band_note(run: Records, unfinished: bool = True, always: bool = False) -> str:
    """What lines and bands are, for a caption; `always` where bands are drawn for any number of methods."""
    status = run_status(run)
    counts = status[status["counted"].astype(bool)].groupby("method").size()
    note = "Lines: mean over finished seeds"
    if always or len(run.methods) <= MANY_METHODS:
        kinds = []
        if ((counts > 1) & (counts < INTERVAL_SEEDS)).any():
            kinds.append("from the lowest to the highest seed")
        if (counts >= INTERVAL_SEEDS).any():
            kinds.append(f"its 95 % interval (Student's t, {INTERVAL_SEEDS} seeds or more)")
        note += f"; bands: {' or '.join(kinds)}" if kinds else ""
    if unfinished and len(status) and not status["counted"].all():
        note += ". Dashed lines that end in a cross: unfinished seeds"
    return f"{note}."


def means(
    axes: Axes, run: Records, frame: pd.DataFrame, by: str, markers: bool = True, dashed: bool = False
) -> None:
    """A line a method through `mean` at the values of column `by`, with its band. Columns as of `curves.bands`."""
    many = len(run.methods) > MANY_METHODS
    for method, look in style.looks(run.methods).items():
        curve = frame[frame["method"] == method].sort_values(by)
        if not len(curve):
            continue
        x = curve[by].to_numpy()
        marker = look.marker if len(x) < 3 or (markers and len(x) <= 20) else None
        line = "--" if dashed else look.line
        width = 1.3 if many else 2.0
        axes.plot(
            x,
            curve["mean"],
            color=look.colour,
            lw=width,
            ls=line,
            marker=marker,
            ms=4,
            zorder=4,
            label=method,
        )
        if not many:
            band(axes, x, curve, look.colour)


def band(axes: Axes, x: np.ndarray, curve: pd.DataFrame, colour: str) -> None:
    """The interval, or with few seeds their range, as a light fill between thin lines; nothing for one seed."""
    least = curve["n"].min()
    if least < 2:
        return
    edges = ("low", "high") if least >= INTERVAL_SEEDS else ("least", "most")
    low, high = (curve[name].to_numpy() for name in edges)
    axes.fill_between(x, low, high, color=colour, alpha=0.10, lw=0, zorder=1)
    for edge in (low, high):
        axes.plot(x, edge, color=colour, lw=0.5, alpha=0.55, zorder=2)


def cut(axes: Axes, values: pd.Series) -> None:
    """Limits from values, with a margin; a wider band may be cut off."""
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        return
    spread = max(high - low, 1e-3 * max(abs(high), 1e-3))
    axes.set_ylim(low - 0.12 * spread, high + 0.12 * spread)


def unfinished(axes: Axes, run: Records, frame: pd.DataFrame, by: str) -> None:
    """Curves (method, seed, `by`, value) of seeds that do not count: dashed, with a cross where they end."""
    status = run_status(run)
    look = style.looks(run.methods)
    left_out = status[~status["counted"].astype(bool)]
    for method, seed in left_out[["method", "seed"]].itertuples(index=False):
        curve = frame[(frame["method"] == method) & (frame["seed"] == seed)].dropna(subset=[by])
        curve = curve.sort_values(by)
        if len(curve) > 1:
            colour = look[method].colour
            axes.plot(curve[by], curve["value"], color=colour, lw=0.9, ls="--")
            axes.plot(curve[by].iloc[-1:], curve["value"].iloc[-1:], color=colour, marker="x", ms=5)
