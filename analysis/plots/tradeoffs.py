"""The figure of what gains cost: training rewards that run ahead, diversity lost, distance from the base model."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, text
from analysis.hacking import DIVERSITY
from analysis.plots.panels import MANY_METHODS, finish, grid, handles, panel
from analysis.records import Records
from analysis.tradeoffs import course_frame, front


def tradeoffs_figure(run: Records) -> Figure | None:
    """Held-out against training gain, and headline reward against diversity and KL: a line a method, its end marked."""
    frame = course_frame(run)
    reward = text.reward_name(run.suite.headline)
    panels = [
        (
            "over-optimisation",
            "training",
            "headline",
            "gain in training rewards (base s.d.)",
            f"gain in {reward} (base s.d.)",
        ),
        ("reward and diversity", DIVERSITY, "value", "diversity", reward),
        ("reward and distance", "kl", "value", "KL to base (nats a video)", reward),
    ]
    panels = [entry for entry in panels if frame[[entry[1], entry[2]]].notna().all(axis=1).any()]
    if not panels or not (frame["iteration"] > 0).any():
        return None
    drawn, axes = grid(len(panels), 3.0, len(run.methods))
    for each, (title, x, y, below, left) in zip(axes, panels, strict=True):
        ends = _lines(each, run, frame, x, y)
        if x != "training":
            _label(each, ends, front(ends, y, x, smaller=x == "kl"), x, y)
        else:
            low, high = each.get_xlim()
            each.plot(
                [low, high],
                [low, high],
                color=style.FAINT,
                lw=1,
                ls=(0, (6, 3)),
                zorder=1,
                scalex=False,
                scaley=False,
            )
        panel(each, title, below=below, left=left)
        if x == "kl":
            each.set_xscale("symlog", linthresh=10)
            each.set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1000"])
    note = (
        "Lines: means of the finished seeds from the base model on; marks: their ends. Dashed: equal gains; below it "
        "the training rewards run ahead. Named: methods that no other beats on both axes."
    )
    return finish(run, drawn, "What the gains cost", handles(run), note)


def _lines(axes: Axes, run: Records, frame: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Draws each method's mean course; returns where they end: columns method, x, y."""
    ends = []
    width = 1.0 if len(run.methods) > MANY_METHODS else 1.8
    for method, look in style.looks(run.methods).items():
        own = frame[frame["method"] == method].dropna(subset=[x, y])
        if not len(own):
            continue
        complete = own.groupby("iteration")["seed"].transform("nunique") == own["seed"].nunique()
        way = own[complete].groupby("iteration")[[x, y]].mean()
        last = own.sort_values("iteration").groupby("seed")[[x, y]].last().mean()
        way = pd.concat([way.iloc[:-1], last.to_frame().T])
        axes.plot(way[x], way[y], color=look.colour, lw=width, ls=look.line, alpha=0.6, zorder=3)
        axes.plot(last[x], last[y], marker=look.marker, ms=6, color=look.colour, zorder=5)
        ends.append({"method": method, x: float(last[x]), y: float(last[y])})
    return pd.DataFrame(ends, columns=["method", x, y])


def _label(axes: Axes, ends: pd.DataFrame, names: list[str], x: str, y: str) -> None:
    """Names the methods on the front beside their ends."""
    for _, row in ends[ends["method"].isin(names)].iterrows():
        name = axes.annotate(row["method"], (row[x], row[y]), xytext=(4, 4), textcoords="offset points")
        name.set(fontsize=7, color=style.INK, in_layout=False)
