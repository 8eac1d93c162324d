"""Figures of the evaluated rewards: over training in any unit of compute, and at the end."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, text
from analysis.costs import with_costs
from analysis.curves import bands, counted, final_values, over_cost, seed_means
from analysis.plots import panels
from analysis.records import Records
from analysis.schema import BASE
from analysis.statistics import paired_gain


def reward_curves(run: Records, split: str, unit: str) -> Figure:
    """Each reward over compute in one unit, on one prompt split: a line a method, bands over seeds."""
    every = seed_means(run)
    here = every[every["split"] == split]
    drawn, axes = panels.grid(len(run.rewards), 2.25)
    for each, reward in zip(axes, run.rewards, strict=True):
        reward_panel(each, run, here[here["reward"] == reward], unit)
        labels = (_kind(run, reward), text.UNIT_AXES[unit], "mean over videos")
        panels.panel(each, text.reward_name(reward), *labels, whole=unit == "iterations")
        panels.cut(each, every.loc[every["reward"] == reward, "value"])
    heading = f"Rewards on {text.SPLIT_NAMES[split]} against {text.UNIT_AXES[unit]}"
    return panels.finish(run, drawn, heading, panels.handles(run, base=True), panels.band_note(run))


def _kind(run: Records, reward: str) -> str:
    return "trained on" if run.suite.role(reward) == "training" else ""


def reward_panel(axes: Axes, run: Records, curves: pd.DataFrame, unit: str) -> None:
    """Means and bands of one reward's curves (rows of `seed_means`) over compute in one unit, and the base model."""
    panels.level(axes, base_value(curves))
    finished = counted(run, with_costs(run, curves))
    if unit == "iterations":
        average = bands(finished, ["method", "iteration"]).rename(columns={"iteration": unit})
    else:
        average = over_cost(finished, unit, ["method"])
    panels.means(axes, run, average, unit)


def base_value(curves: pd.DataFrame) -> float:
    """The base model's value among rows of `seed_means`, NaN where it was not evaluated."""
    return float(next(iter(curves.loc[curves["method"] == BASE, "value"]), math.nan))


def final_comparison(run: Records) -> Figure:
    """Gain over the base model at the end: a panel a reward, a row a method, both prompt splits."""
    values = final_values(run)
    drawn, axes = panels.grid(len(run.rewards), 0.75 + 0.36 * max(len(run.methods), 2))
    for each, reward in zip(axes, run.rewards, strict=True):
        for split in run.splits:
            _gains(each, run, values[(values["reward"] == reward) & (values["split"] == split)], split)
        panels.panel(each, text.reward_name(reward), _kind(run, reward), "gain over base")
        at = each.get_subplotspec()
        panels.rows(each, run.methods if at is None or at.is_first_col() else [""] * len(run.methods))
    note = (
        "Large marks: mean over finished seeds with its 95 % interval (Student's t; none for one seed). "
        "Small dots: single seeds. Dotted line: the base model. Each panel has its own scale."
    )
    fills = {"held_out": None, "train": "white"}
    marks = [
        panels.line(text.SPLIT_NAMES[split], kind="", marker="o", mfc=fills[split]) for split in run.splits
    ]
    heading = "Gain over the base model at the end of training"
    return panels.finish(run, drawn, heading, marks, note)


def _gains(axes: Axes, run: Records, part: pd.DataFrame, split: str) -> None:
    shift = (-0.16 if split == "held_out" else 0.16) if len(run.splits) > 1 else 0.0
    look = panels.looks(run)
    for place, method in enumerate(run.methods):
        seeds = part.loc[part["method"] == method, "gain"].dropna().to_numpy()
        if not len(seeds):
            continue
        gain, colour, y = paired_gain(seeds, 0.0), look[method].colour, place + shift
        fill = colour if split == "held_out" else "white"
        panels.estimate(axes, y, gain.mean, gain.low, gain.high, colour, marker="o", ms=7, mfc=fill)
        axes.plot(seeds, np.full(len(seeds), y), ".", ms=4, color=style.INK, alpha=0.5, zorder=4)
