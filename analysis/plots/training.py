"""The figure of what training looked like: rewards of the rollouts, and how the updates went."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, text
from analysis.curves import bands, counted
from analysis.plots.panels import band_note, finish, grid, handles, means, panel
from analysis.records import Records


def training_curves(run: Records) -> Figure | None:
    """Rewards of the rollouts and how the updates went, over iterations; None when no finished seed recorded any."""
    metrics = training_metrics(run)
    records = run.iterations[run.iterations["metric"].isin(metrics)].astype({"method": str, "metric": str})
    average = bands(counted(run, records), ["method", "metric", "iteration"])
    if not len(average):
        return None
    drawn, axes = grid(len(metrics), 2.15, columns=3)
    for each, metric in zip(axes, metrics, strict=True):
        mean = average[average["metric"] == metric]
        means(each, run, mean, "iteration")
        panel(each, text.metric_name(metric), below="iteration", whole=True)
        if metric == "guidance_advantage_correlation":
            each.axhline(0, color=style.FAINT, lw=1, zorder=0)
        _log_scale(each, mean["mean"])
    return finish(run, drawn, "Rollouts and updates", handles(run), band_note(run))


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
