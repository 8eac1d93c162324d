"""Figures of reward hacking: proxies against what is meant, and how far from the base model it takes."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style, text
from analysis.curves import counted, counted_curves, seed_means
from analysis.hacking import DIVERSITY, courses, kl_frame, proxy_frame, reward_and_kl
from analysis.plots import panels
from analysis.plots.rewards import base_value
from analysis.records import Records

TRAINED_COLOUR = "#444444"


def proxy_figure(run: Records) -> Figure | None:
    """A panel a method: gain on the training rewards and on the headline, in base standard deviations."""
    proxy = proxy_frame(run)
    shown = [name for name in run.methods if name in set(proxy["method"])]
    if not shown or proxy[["training", "headline"]].isna().all().any():
        return None
    peaks = {entry.method: entry.peaks for entry in courses(run)}
    drawn, axes = panels.grid(len(shown), 2.2, 3, columns=4, share_y=True)
    colours = {method: look.colour for method, look in style.looks(run.methods).items()}
    for each, method in zip(axes, shown, strict=True):
        panels.level(each)
        for name, colour, line in (
            ("training", TRAINED_COLOUR, "-"),
            ("training_held_out", TRAINED_COLOUR, "--"),
            ("headline", colours[method], "-"),
        ):
            curve = panels.over_iterations(proxy[proxy["method"] == method], name)
            x = curve["iteration"].to_numpy()
            each.plot(x, curve["mean"], color=colour, ls=line, lw=2 if line == "-" else 1.2, zorder=4)
            if line == "-":
                panels.band(each, x, curve, colour)
        at, below = peaks.get(method, ()), each.get_xaxis_transform()
        mark: dict[str, Any] = {"marker": "^", "ms": 6, "color": colours[method], "clip_on": False}
        each.plot(at, [0] * len(at), ls="", zorder=5, transform=below, **mark)
        panels.panel(each, method, below="iteration", left="gain (base s.d.)", whole=True)
    headline = text.reward_name(run.suite.headline)
    legend = [
        Line2D([], [], color=TRAINED_COLOUR, lw=2, label="rewards trained on, training prompts"),
        Line2D([], [], color=TRAINED_COLOUR, lw=1.2, ls="--", label="the same, held-out prompts"),
        Line2D([], [], color=colours[shown[0]], lw=2, label=f"{headline}, held-out prompts (coloured)"),
    ]
    notes = panels.band_note(run, False, always=True), f"Triangles: where {headline} peaks in each seed."
    return panels.finish(
        run, drawn, "What is trained on against what is meant", legend, *notes, labels_a_row=3
    )


def distance_figure(run: Records) -> Figure | None:
    """The proxy gap, diversity and KL to the base over training, and the headline against that KL."""
    curves, finished = seed_means(run), counted_curves(run)
    if not len(finished):
        return None
    diverse = (curves["split"] == run.split) & (curves["reward"] == DIVERSITY)
    both = reward_and_kl(run)
    start = base_value(curves[diverse])
    series = [
        ("proxy gap", "base standard deviations", proxy_frame(run).rename(columns={"gap": "value"}), 0.0),
        ("diversity", f"mean on {text.SPLIT_NAMES[run.split]}", counted(run, curves[diverse]), start),
        ("KL to the base model", "nats per video", counted(run, kl_frame(run)), 0.0),
    ]
    series = [entry for entry in series if entry[2]["value"].notna().any()]
    if not series:
        return None
    drawn, axes = panels.grid(len(series) + bool(len(both)), 2.6, len(run.methods) + 1)
    for each, (title, left, frame, height) in zip(axes, series, strict=False):
        panels.level(each, height)
        panels.means(each, run, panels.over_iterations(frame), "iteration")
        panels.panel(each, title, below="iteration", left=left, whole=True)
    note = ""
    if len(both):
        _trajectories(axes[-1], run, both)
        name = text.reward_name(run.suite.headline)
        panels.panel(axes[-1], f"{name} by KL", below="KL (nats per video)", left=name)
        note = "Last panel: a point an evaluation, a line a method through the means of its seeds."
    heading = "Proxy gap, diversity, and distance from the base model"
    return panels.finish(
        run, drawn, heading, panels.handles(run, base=True), panels.band_note(run, False), note
    )


def _trajectories(axes: Axes, run: Records, both: pd.DataFrame) -> None:
    """Where each method's seeds stood at every evaluation, and the path of their mean."""
    panels.level(axes, float(both.loc[both["iteration"] == 0, "value"].mean()))
    for method, own in both.groupby("method", sort=False):
        look = style.looks(run.methods)[str(method)]
        if len(run.methods) <= panels.MANY_METHODS:
            dots: dict[str, Any] = {"ls": "", "marker": ".", "ms": 3, "alpha": 0.5}
            axes.plot(own["kl"], own["value"], color=look.colour, zorder=2, **dots)
        complete = own.groupby("iteration")["seed"].transform("nunique") == own["seed"].nunique()
        path = own[complete].groupby("iteration")[["kl", "value"]].mean()
        axes.plot(path["kl"], path["value"], color=look.colour, lw=1.6, ls=look.line, zorder=3)
        end = path.iloc[-1:]
        axes.plot(end["kl"], end["value"], marker=look.marker, ms=6, color=look.colour, zorder=4)
