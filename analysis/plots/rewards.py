"""Figures over training: the evaluated rewards, in any unit of compute, and how rollouts and updates went."""

from __future__ import annotations

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
        kind = "trained on" if run.suite.role(reward) == "training" else ""
        labels = (kind, text.UNIT_AXES[unit], "mean over videos")
        panels.panel(each, text.reward_name(reward), *labels, whole=unit == "iterations")
        panels.cut(each, every.loc[every["reward"] == reward, "value"])
    heading = f"Rewards on {text.SPLIT_NAMES[split]} against {text.UNIT_AXES[unit]}"
    return panels.finish(run, drawn, heading, panels.handles(run, base=True), panels.band_note(run))


def reward_panel(axes: Axes, run: Records, curves: pd.DataFrame, unit: str) -> None:
    """Means and bands of one reward's curves (rows of `seed_means`) over compute in one unit, and the base model."""
    for height in curves.loc[curves["method"] == BASE, "value"].dropna():
        axes.axhline(height, color=style.BASE_LOOK.colour, ls=":", lw=1.2)
    finished = counted(run, with_costs(run, curves))
    if unit == "iterations":
        average = bands(finished, ["method", "iteration"]).rename(columns={"iteration": unit})
    else:
        average = over_cost(finished, unit, ["method"])
    panels.means(axes, run, average, unit)


def final_gains(run: Records) -> Figure | None:
    """Gain over the base model at the end, on the prompts that answer the question: a row a method."""
    values = final_values(run).query("split == @run.split")
    if not len(values):
        return None
    drawn, axes = panels.grid(len(run.rewards), 0.75 + 0.3 * max(len(run.methods), 3), columns=3)
    for each, reward in zip(axes, run.rewards, strict=True):
        for y, method in enumerate(run.methods):
            seeds = values.query("reward == @reward and method == @method")["gain"].dropna()
            gain, colour = paired_gain(seeds, 0.0), panels.looks(run)[method].colour
            panels.estimate(each, y, gain.mean, gain.low, gain.high, colour, marker="o", ms=7)
            each.plot(seeds, [y] * len(seeds), ".", ms=4, color=style.INK, alpha=0.5, zorder=4)
        kind = "trained on" if run.suite.role(reward) == "training" else ""
        panels.panel(each, text.reward_name(reward), kind, "gain over base")
        at = each.get_subplotspec()
        panels.rows(each, run.methods if at and at.is_first_col() else [""] * len(run.methods), 0)
    note = "Large marks: means with their 95 % intervals over seeds. Small dots: single seeds."
    return panels.finish(run, drawn, f"Final gains on {text.SPLIT_NAMES[run.split]}", [], note)


def training_curves(run: Records) -> Figure | None:
    """Rewards of the rollouts and how the updates went, over iterations; None when no finished seed recorded any."""
    metrics = training_metrics(run)
    records = run.iterations[run.iterations["metric"].isin(metrics)].astype({"method": str, "metric": str})
    average = bands(counted(run, records), ["method", "metric", "iteration"])
    if not len(average):
        return None
    drawn, axes = panels.grid(len(metrics), 2.15, columns=3)
    for each, metric in zip(axes, metrics, strict=True):
        mean = average[average["metric"] == metric]
        panels.means(each, run, mean, "iteration")
        panels.panel(each, text.metric_name(metric), below="iteration", whole=True)
        if metric == "guidance_advantage_correlation":
            each.axhline(0, color=style.FAINT, lw=1, zorder=0)
        _log_scale(each, mean["mean"])
    return panels.finish(run, drawn, "Rollouts and updates", panels.handles(run), panels.band_note(run))


def training_metrics(run: Records) -> list[str]:
    """The recorded metrics that the figure shows: rewards of the rollouts, then those of `text.METRICS` that left 0."""
    sizes = run.iterations["value"].astype("float64").abs()
    largest = sizes.groupby(run.iterations["metric"].astype(str)).max()
    rewards = sorted(name for name in largest.index if name.startswith("reward/"))
    return [*rewards, *(name for name in text.METRICS if largest.get(name, 0) > 0)]


def _log_scale(axes: Axes, mean: pd.Series) -> None:
    """A logarithmic axis for values that are never negative and span more than a factor of 30."""
    positive = mean[mean > 0]
    if (mean >= 0).all() and len(positive) and positive.max() > 30 * positive.min():
        axes.set_yscale("log")
        axes.set_ylim(positive.min() / 2, positive.max() * 3)
