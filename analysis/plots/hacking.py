"""Figures of reward hacking: proxies against what is meant, and how far from the base model it takes."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style, text
from analysis.curves import bands, counted_curves, seed_means
from analysis.hacking import DIVERSITY, courses, kl_frame, proxy_frame, reward_and_kl
from analysis.plots.panels import (
    MANY_METHODS,
    band,
    band_note,
    base_handle,
    footer,
    grid,
    handles,
    means,
    panel,
)
from analysis.plots.rewards import base_line
from analysis.records import Records

TRAINED_COLOUR = "#444444"


def proxy_figure(run: Records) -> Figure | None:
    """A panel a method: gain on the training rewards and on the headline, in base standard deviations."""
    proxy = proxy_frame(run)
    shown = [name for name in run.methods if name in set(proxy["method"])]
    if not shown or proxy[["training", "headline"]].isna().all().any():
        return None
    peaks = {entry.method: entry.peaks for entry in courses(run)}
    drawn, axes, columns = grid(len(shown), 2.2, 3, columns=4, share_y=True)
    look = style.looks(run.methods)
    for place, (each, method) in enumerate(zip(axes, shown, strict=True)):
        own = proxy[proxy["method"] == method]
        each.axhline(0, color=style.BASE_LOOK.colour, ls=":", lw=1.2)
        for name, colour, line in (
            ("training", TRAINED_COLOUR, "-"),
            ("training_held_out", TRAINED_COLOUR, "--"),
            ("headline", look[method].colour, "-"),
        ):
            curve = _band(own, name)
            if not len(curve):
                continue
            x = curve["iteration"].to_numpy()
            each.plot(x, curve["mean"], color=colour, ls=line, lw=2 if line == "-" else 1.2, zorder=4)
            if line == "-":
                band(each, x, curve, colour)
        for peak in peaks.get(method, ()):
            each.plot(
                peak,
                0,
                marker="^",
                ms=6,
                color=look[method].colour,
                clip_on=False,
                zorder=5,
                transform=each.get_xaxis_transform(),
            )
        below = "iteration" if place >= len(axes) - columns else ""
        left = "gain (base s.d.)" if place % columns == 0 else ""
        panel(each, method, below=below, left=left, whole=True)
    headline = text.reward_name(run.suite.headline)
    legend = [
        Line2D([], [], color=TRAINED_COLOUR, lw=2, label="rewards trained on, training prompts"),
        Line2D([], [], color=TRAINED_COLOUR, lw=1.2, ls="--", label="the same, held-out prompts"),
        Line2D([], [], color=look[shown[0]].colour, lw=2, label=f"{headline}, held-out prompts (coloured)"),
    ]
    note = f"Triangles: where {headline} peaks in each seed."
    style.surround(
        drawn,
        "What is trained on against what is meant",
        footer(run, band_note(run, False, always=True), note),
        legend,
        3,
    )
    return drawn


def _band(own: pd.DataFrame, name: str) -> pd.DataFrame:
    values = own[["method", "seed", "iteration", name]].dropna().rename(columns={name: "value"})
    return bands(values, ["method", "iteration"])


@dataclass(frozen=True)
class _Panel:
    title: str
    left: str
    frame: pd.DataFrame


def distance_figure(run: Records) -> Figure | None:
    """The proxy gap, diversity and KL to the base over training, and the headline against that KL."""
    curves, counted = seed_means(run), counted_curves(run)
    split = run.splits[0] if run.splits else "held_out"
    diverse = counted[(counted["split"] == split) & (counted["reward"] == DIVERSITY)]
    kl = kl_frame(run).merge(counted[["method", "seed"]].drop_duplicates(), on=["method", "seed"])
    both = reward_and_kl(run)
    panels = [
        _Panel("proxy gap", "base standard deviations", proxy_frame(run).rename(columns={"gap": "value"})),
        _Panel("diversity", f"mean on {text.SPLIT_NAMES[split]}", diverse),
        _Panel("KL to the base model", "nats per video", kl),
    ]
    panels = [entry for entry in panels if entry.frame["value"].notna().any()] if len(counted) else []
    if not panels:
        return None
    drawn, axes, _ = grid(len(panels) + bool(len(both)), 2.6, len(run.methods) + 1)
    for each, entry in zip(axes, panels, strict=False):
        if entry.title == "diversity":
            base_line(each, curves[(curves["split"] == split) & (curves["reward"] == DIVERSITY)])
        else:
            each.axhline(0, color=style.BASE_LOOK.colour, ls=":", lw=1.2)
        columns = ["method", "seed", "iteration", "value"]
        means(each, run, bands(entry.frame[columns].dropna(), ["method", "iteration"]), "iteration")
        panel(each, entry.title, below="iteration", left=entry.left, whole=True)
    if len(both):
        _trajectories(axes[-1], run, both)
        name = text.reward_name(run.suite.headline)
        panel(axes[-1], f"{name} by KL", below="KL (nats per video)", left=name)
    note = (
        "Last panel: a point an evaluation, a line a method through the means of its seeds."
        if len(both)
        else ""
    )
    style.surround(
        drawn,
        "Proxy gap, diversity, and distance from the base model",
        footer(run, band_note(run, False), note),
        [*handles(run), base_handle()],
    )
    return drawn


def _trajectories(axes: Axes, run: Records, both: pd.DataFrame) -> None:
    """Where each method's seeds stood at every evaluation, and the way of their mean."""
    axes.axhline(
        float(both.loc[both["iteration"] == 0, "value"].mean()), color=style.BASE_LOOK.colour, ls=":", lw=1.2
    )
    for method, look in style.looks(run.methods).items():
        own = both[both["method"] == method]
        if not len(own):
            continue
        if len(run.methods) <= MANY_METHODS:
            axes.plot(
                own["kl"], own["value"], ls="", marker=".", ms=3, color=look.colour, alpha=0.5, zorder=2
            )
        complete = own.groupby("iteration")["seed"].transform("nunique") == own["seed"].nunique()
        way = own[complete].groupby("iteration")[["kl", "value"]].mean()
        axes.plot(way["kl"], way["value"], color=look.colour, lw=1.6, ls=look.line, zorder=3)
        axes.plot(
            way["kl"].iloc[-1:], way["value"].iloc[-1:], marker=look.marker, ms=6, color=look.colour, zorder=4
        )
