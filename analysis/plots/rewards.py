"""Figures of the evaluated rewards: over training in any unit of compute, and at the end."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import style, text
from analysis.costs import with_costs
from analysis.curves import bands, counted, final_values, over_cost, seed_means
from analysis.plots.panels import (
    band_note,
    base_handle,
    cut,
    footer,
    grid,
    handles,
    judges_note,
    means,
    panel,
    unfinished,
)
from analysis.records import Records
from analysis.schema import BASE
from analysis.statistics import paired_gain


def reward_curves(run: Records, split: str, unit: str) -> Figure:
    """Each reward over compute in one unit, on one prompt split: a line a method, bands over seeds."""
    every = seed_means(run)
    here = every[every["split"] == split]
    joined = with_costs(run, here)
    average = curve_bands(run, joined, unit)
    drawn, axes, columns = grid(len(run.rewards), 2.25, len(run.methods) + 1)
    for place, (each, reward) in enumerate(zip(axes, run.rewards, strict=True)):
        base_line(each, here[here["reward"] == reward])
        own = joined[joined["reward"] == reward]
        unfinished(each, run, own, unit)
        means(each, run, average[average["reward"] == reward], unit)
        below = text.UNIT_AXES[unit] if place >= len(axes) - columns else ""
        left = "mean over videos" if place % columns == 0 else ""
        kind = text.reward_kind(run.suite.role(reward))
        panel(each, text.reward_name(reward), kind, below, left, whole=unit == "iterations")
        cut(each, every.loc[every["reward"] == reward, "value"])
    heading = f"Rewards on {text.SPLIT_NAMES[split]} against {text.UNIT_AXES[unit]}"
    style.surround(
        drawn, heading, footer(run, band_note(run), judges_note(run)), [*handles(run), base_handle()]
    )
    return drawn


def curve_bands(run: Records, joined: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Means and bands over counted seeds (columns method, reward, `unit`, mean, ...) of curves with costs."""
    finished = counted(run, joined)
    if unit == "iterations":
        average = bands(finished, ["method", "reward", "iteration"])
        return average.rename(columns={"iteration": "iterations"})
    return over_cost(finished, unit, ["method", "reward"])


def base_line(axes: Axes, here: pd.DataFrame) -> None:
    """A dotted line at the base model's value, if it was evaluated."""
    start = here.loc[here["method"] == BASE, "value"]
    if len(start):
        axes.axhline(float(start.iloc[0]), color=style.BASE_LOOK.colour, ls=":", lw=1.2)


def final_comparison(run: Records) -> Figure:
    """Gain over the base model at the end: a panel a reward, a row a method, both prompt splits."""
    values = final_values(run)
    drawn, axes, columns = grid(len(run.rewards), 0.75 + 0.36 * max(len(run.methods), 2), len(run.splits))
    for place, (each, reward) in enumerate(zip(axes, run.rewards, strict=True)):
        each.axvline(0, color=style.BASE_LOOK.colour, ls=":", lw=1.2, zorder=1)
        for split in run.splits:
            part = values[(values["reward"] == reward) & (values["split"] == split)]
            _gains(each, run, part, split)
        below = "gain over base" if place >= len(axes) - columns else ""
        panel(each, text.reward_name(reward), text.reward_kind(run.suite.role(reward)), below)
        each.yaxis.set_major_locator(MaxNLocator(integer=True))
        labels = list(run.methods) if place % columns == 0 else [""] * len(run.methods)
        each.set_yticks(range(len(run.methods)), labels, fontsize=9)
        each.set_ylim(len(run.methods) - 0.5, -0.5)
        each.grid(visible=False, axis="y")
    note = (
        "Large marks: mean over finished seeds with its 95 % interval (Student's t; none for one seed). "
        "Small dots: single seeds. Dotted line: the base model. Each panel has its own scale."
    )
    fills = {"held_out": style.INK, "train": "white"}
    marks = [
        Line2D([], [], ls="", marker="o", color=style.INK, mfc=fills[split], label=text.SPLIT_NAMES[split])
        for split in run.splits
    ]
    heading = "Gain over the base model at the end of training"
    style.surround(drawn, heading, footer(run, note, judges_note(run)), marks)
    return drawn


def _gains(axes: Axes, run: Records, part: pd.DataFrame, split: str) -> None:
    shift = (-0.16 if split == "held_out" else 0.16) if len(run.splits) > 1 else 0.0
    for place, method in enumerate(run.methods):
        seeds = part.loc[part["method"] == method, "gain"].dropna().to_numpy()
        if not len(seeds):
            continue
        gain = paired_gain(seeds, 0.0)
        colour = style.looks(run.methods)[method].colour
        y = place + shift
        if gain.known:
            axes.plot([gain.low, gain.high], [y, y], color=colour, lw=1.6, zorder=2)
        heights = np.full(len(seeds), y)
        axes.plot(seeds, heights, ls="", marker=".", ms=4, color=style.INK, alpha=0.5, zorder=4)
        fill = colour if split == "held_out" else "white"
        axes.plot(gain.mean, y, marker="o", ms=7, color=colour, mfc=fill, zorder=3)
