"""Figures from records: curves over iterations, the final comparison, and what training looked like."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import style, text
from analysis.curves import bands, counted_curves, final_values, run_status, seed_means
from analysis.records import BASE, Run
from analysis.statistics import Interval, paired_gain

WIDTH = 10.0
MANY_METHODS, MANY_SEEDS = 5, 15
"""With more methods bands, and with more runs single seeds, would hide the means and are left out."""

BAND_SEEDS = 3
"""With two seeds the 95 % interval is 12.7 standard errors: a band that hides the lines which say it all."""

TRAINING_METRICS = (
    "ratio_deviation",
    "clip_fraction",
    "grad_norm",
    "guidance_size",
    "guidance_advantage_correlation",
    "kl_to_guided",
    "kl_to_base",
    "kl_to_old",
    "loss",
)
_POSITIVE = ("ratio_deviation", "grad_norm", "guidance_size", "kl_to_guided", "kl_to_base", "kl_to_old")


def _footer(run: Run, *sentences: str) -> str:
    status = run_status(run)
    counted = int(status["counted"].astype(bool).sum()) if len(status) else 0
    seeds = f"{run.settings['seeds']} seeds" if int(run.settings["seeds"]) != 1 else "1 seed"
    finished = f"{counted} of {len(status)} runs finished"
    head = f"Suite {run.suite.name}, budget {run.budget} a run, {seeds} a method ({finished})."
    return " ".join([head, *sentences])


def _grid(run: Run, panels: int, height: float, columns: int = 4) -> tuple[Figure, list[Axes], int]:
    columns = min(panels, 3 if panels in (3, 5, 6, 9) else columns)
    rows = math.ceil(panels / columns)
    legend = math.ceil((len(run.methods) + 2) / 5) * style.LEGEND_ROW
    drawn = style.figure(WIDTH, height * rows + style.HEADING + legend + 0.6)
    axes = drawn.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[panels:]:
        unused.set_axis_off()
    return drawn, axes[:panels], columns


def _handles(run: Run) -> list[Line2D]:
    look = style.looks(run.methods)
    return [
        Line2D(
            [], [], color=look[name].colour, marker=look[name].marker, ls=look[name].line, label=name, ms=5
        )
        for name in run.methods
    ]


def _panel(axes: Axes, name: str, kind: str, below: str | None) -> None:
    style.tidy(axes)
    axes.set_title(name, loc="left", fontsize=10, fontweight="bold", color=style.INK)
    if kind:
        axes.set_title(kind, loc="right", fontsize=8, color="#555555")
    if below is not None:
        axes.set_xlabel(below, fontsize=9, color=style.INK)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _kind(run: Run, reward: str) -> str:
    role = run.suite.role(reward)
    return {"training": "trained on", "held-out": "held out"}.get(role, "")


def _band_note(run: Run, seeds: bool = True) -> str:
    lines = "Thick lines: mean over finished seeds"
    status = run_status(run)
    most = status[status["counted"].astype(bool)].groupby("method").size().max()
    if len(run.methods) <= MANY_METHODS and most >= BAND_SEEDS:
        lines += f"; bands: its 95 % interval (Student's t, {BAND_SEEDS} seeds or more)"
    unfinished = "" if status["counted"].all() else " Dashed lines that end in a cross: unfinished seeds."
    return f"{lines}.{' Thin lines: single seeds.' if seeds and _few(run) else ''}{unfinished}"


def _few(run: Run) -> bool:
    return len(run.methods) * int(run.settings["seeds"]) <= MANY_SEEDS


def reward_curves(run: Run, split: str = "held_out", curves: pd.DataFrame | None = None) -> Figure:
    """Each reward over iterations on one prompt split: a line a method, bands over seeds."""
    means = seed_means(run) if curves is None else curves
    counted = counted_curves(run, means)
    average = bands(counted, ["method", "split", "reward", "iteration"])
    finished = {(method, seed) for method, seed in counted[["method", "seed"]].itertuples(index=False)}
    drawn, panels, columns = _grid(run, len(run.rewards), 2.25)
    for place, (axes, reward) in enumerate(zip(panels, run.rewards, strict=True)):
        here = means[(means["split"] == split) & (means["reward"] == reward)]
        mean = average[(average["split"] == split) & (average["reward"] == reward)]
        start = here.loc[here["method"] == BASE, "value"]
        if len(start):
            axes.axhline(float(start.iloc[0]), color=style.BASE_LOOK.colour, ls=":", lw=1.2)
        _lines(axes, run, here, finished)
        _means(axes, run, mean, "iteration")
        _panel(axes, text.reward_name(reward), _kind(run, reward), None)
        if place >= len(panels) - columns:
            axes.set_xlabel("iteration", fontsize=9)
        if place % columns == 0:
            axes.set_ylabel("mean over videos", fontsize=9)
        _same_scale(axes, means[means["reward"] == reward]["value"])
    base = Line2D([], [], color=style.BASE_LOOK.colour, ls=":", label="base model")
    heading = f"Rewards over training, {text.SPLIT_NAMES[split]}"
    style.surround(drawn, heading, _footer(run, _band_note(run)), [*_handles(run), base])
    return drawn


def _same_scale(axes: Axes, values: pd.Series) -> None:
    """Limits from the seeds of both splits, so that the two figures compare; a wide band may be cut off."""
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        return
    spread = max(high - low, 1e-3 * max(abs(high), 1e-3))
    axes.set_ylim(low - 0.15 * spread, high + 0.15 * spread)


def _lines(axes: Axes, run: Run, here: pd.DataFrame, finished: set[tuple[str, int]]) -> None:
    look = style.looks(run.methods)
    for (method, seed), curve in here[here["method"] != BASE].groupby(["method", "seed"]):
        done = (str(method), seed) in finished
        if done and not _few(run):
            continue
        alpha = 0.45 if done else 0.8
        x, y = curve["iteration"].to_numpy(), curve["value"].to_numpy()
        axes.plot(x, y, color=look[str(method)].colour, lw=0.7, alpha=alpha, ls="-" if done else "--")
        if not done and len(curve) > 1:
            axes.plot(x[-1:], y[-1:], color=look[str(method)].colour, marker="x", ms=5)


def _means(axes: Axes, run: Run, mean: pd.DataFrame, by: str, markers: bool = True) -> None:
    for method, look in style.looks(run.methods).items():
        curve = mean[mean["method"] == method].sort_values(by)
        if method == BASE or not len(curve):
            continue
        x = curve[by].to_numpy()
        marker = look.marker if len(x) < 3 or (markers and len(x) <= 20) else None
        y = curve["mean"].to_numpy()
        width = 2 if len(run.methods) <= MANY_METHODS else 1.3
        axes.plot(x, y, color=look.colour, lw=width, ls=look.line, marker=marker, ms=4, zorder=3)
        if len(run.methods) <= MANY_METHODS and (curve["n"] >= BAND_SEEDS).all():
            axes.fill_between(x, curve["low"], curve["high"], color=look.colour, alpha=0.15, lw=0, zorder=1)


def final_comparison(run: Run, finals: pd.DataFrame | None = None) -> Figure:
    """Gain over the base model at the end: a panel a reward, a row a method, both prompt splits."""
    values = final_values(run) if finals is None else finals
    drawn, panels, columns = _grid(run, len(run.rewards), 0.75 + 0.36 * max(len(run.methods), 2))
    for place, (axes, reward) in enumerate(zip(panels, run.rewards, strict=True)):
        axes.axvline(0, color=style.BASE_LOOK.colour, ls=":", lw=1.2, zorder=1)
        for split in run.splits:
            part = values[(values["reward"] == reward) & (values["split"] == split)]
            _gains(axes, run, part, split)
        _panel(axes, text.reward_name(reward), _kind(run, reward), None)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        labels = list(run.methods) if place % columns == 0 else [""] * len(run.methods)
        axes.set_yticks(range(len(run.methods)), labels, fontsize=9)
        axes.set_ylim(len(run.methods) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        if place >= len(panels) - columns:
            axes.set_xlabel("gain over base", fontsize=9)
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
    style.surround(drawn, heading, _footer(run, note), marks)
    return drawn


def _gains(axes: Axes, run: Run, part: pd.DataFrame, split: str) -> None:
    shift = (-0.16 if split == "held_out" else 0.16) if len(run.splits) > 1 else 0.0
    for place, method in enumerate(run.methods):
        seeds = part.loc[part["method"] == method, "gain"].dropna().to_numpy()
        if not len(seeds):
            continue
        gain: Interval = paired_gain(seeds, 0.0)
        look = style.looks(run.methods)[method]
        y = place + shift
        if gain.known:
            axes.plot([gain.low, gain.high], [y, y], color=look.colour, lw=1.6, zorder=2)
        axes.plot(
            seeds, np.full(len(seeds), y), ls="", marker=".", ms=4, color=style.INK, alpha=0.5, zorder=4
        )
        fill = look.colour if split == "held_out" else "white"
        axes.plot(gain.mean, y, marker=look.marker, ms=7, color=look.colour, mfc=fill, zorder=3)


def training_curves(run: Run) -> Figure | None:
    """Rewards of the rollouts and how the updates went, over iterations; None when nothing was recorded."""
    recorded = set(run.iterations["metric"].astype(str).unique())
    rewards = sorted(name for name in recorded if name.startswith("reward/"))
    metrics = [*rewards, *(name for name in TRAINING_METRICS if name in recorded)]
    if not metrics:
        return None
    records = run.iterations[run.iterations["metric"].isin(metrics)]
    window = max(1, int(records["iteration"].max()) // 10)
    records = _smooth(records.astype({"method": str, "metric": str}), window)
    status = run_status(run)
    counted = status.loc[status["counted"].astype(bool), ["method", "seed"]]
    finished = records.merge(counted.astype({"seed": records["seed"].dtype}), on=["method", "seed"])
    average = bands(finished, ["method", "metric", "iteration"])
    drawn, panels, columns = _grid(run, len(metrics), 2.15, columns=3)
    for place, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
        mean = average[average["metric"] == metric]
        _means(axes, run, mean, "iteration", markers=False)
        _unfinished(axes, run, records[records["metric"] == metric], status)
        _panel(axes, text.metric_name(metric), "", None)
        if metric == "guidance_advantage_correlation":
            axes.axhline(0, color=style.FAINT, lw=1, zorder=0)
        if place >= len(panels) - columns:
            axes.set_xlabel("iteration", fontsize=9)
        if metric in _POSITIVE:
            _log_scale(axes, mean)
    smoothing = f"Each seed: moving average of {window} iterations. " if window > 1 else ""
    style.surround(
        drawn, "Rollouts and updates", _footer(run, smoothing + _band_note(run, seeds=False)), _handles(run)
    )
    return drawn


def _smooth(records: pd.DataFrame, window: int) -> pd.DataFrame:
    """Centred moving average of each seed's curve; at both ends the window shrinks."""
    ordered = records.sort_values(["method", "metric", "seed", "iteration"], ignore_index=True)
    curves = ordered.groupby(["method", "metric", "seed"], observed=True)["value"]
    return ordered.assign(value=curves.rolling(window, center=True, min_periods=1).mean().to_numpy())


def _unfinished(axes: Axes, run: Run, records: pd.DataFrame, status: pd.DataFrame) -> None:
    look = style.looks(run.methods)
    left_out = status[~status["counted"].astype(bool)]
    for method, seed in left_out[["method", "seed"]].itertuples(index=False):
        curve = records[(records["method"] == method) & (records["seed"] == seed)].sort_values("iteration")
        if len(curve):
            axes.plot(curve["iteration"], curve["value"], color=look[method].colour, lw=0.9, ls="--")
            axes.plot(
                curve["iteration"].iloc[-1:],
                curve["value"].iloc[-1:],
                color=look[method].colour,
                marker="x",
                ms=5,
            )


def _log_scale(axes: Axes, mean: pd.DataFrame) -> None:
    positive = mean.loc[mean["mean"] > 0, "mean"]
    if len(positive) and positive.max() > 30 * positive.min():
        axes.set_yscale("log")
        axes.set_ylim(positive.min() / 2, positive.max() * 3)
