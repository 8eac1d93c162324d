"""What a gain costs beside compute: diversity, distance from the base model, and training rewards that run ahead.

Methods are compared at equal reward, not at equal time: each seed is read where its headline reward first reaches a
level, so that a method that gains more is not blamed for having moved further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, text
from analysis.convergence import Convergence
from analysis.curves import counted_curves
from analysis.hacking import kl_frame, proxy_frame
from analysis.plots import panels
from analysis.records import Records
from analysis.statistics import Interval, mean_interval
from analysis.tables.text_table import TextTable, tidy

SHARE = 0.75
"""Equal reward is this share of the baseline's gain."""

DIVERSITY = "diversity"

QUANTITIES = ("training", DIVERSITY, "kl")
"""What is read at equal reward: gain in the training rewards (base standard deviations), diversity, KL (nats)."""

_KEYS = ["method", "seed", "iteration"]


@dataclass(frozen=True)
class AtReward:
    """One method where its headline reward first reaches `reward`, over the `reached` of its `seeds` that get there."""

    method: str
    reward: float
    reached: int
    seeds: int
    training: Interval
    diversity: Interval
    kl: Interval


def course_frame(run: Records) -> pd.DataFrame:
    """How each counted seed went: columns method, seed, iteration, value, headline, training, diversity, kl.

    `value` is the headline reward, `headline` and `training` are gains in standard deviations of the base model's
    videos (training rewards on training prompts), `kl` is in nats a video, interpolated. NaN where not recorded.
    """
    means = counted_curves(run)
    wide = means[means["split"] == run.split].pivot(index=_KEYS, columns="reward", values="value")
    wide = wide.reindex(columns=[run.suite.headline, DIVERSITY]).set_axis(["value", DIVERSITY], axis=1)
    gains = proxy_frame(run)[[*_KEYS, "headline", "training"]]
    kl = kl_frame(run).rename(columns={"value": "kl"})
    frame = wide.dropna(subset=["value"]).reset_index().merge(gains, on=_KEYS, how="left")
    frame = frame.merge(kl, on=_KEYS, how="left").sort_values(_KEYS, ignore_index=True)
    # Early evaluations come without diagnostics: KL lies between its neighbours.
    seeds = frame.groupby(["method", "seed"])["kl"]
    return frame.assign(kl=seeds.transform(lambda kl: kl.interpolate(limit_area="inside")))


def at_equal_reward(run: Records, course: Convergence, share: float = SHARE) -> list[AtReward]:
    """Every method at one level of the headline reward; empty where the baseline sets none."""
    if course.why_not:
        return []
    level = course.reward_at(share)
    frame = course_frame(run)
    found = []
    for method in run.methods:
        seeds = [part for _, part in frame[frame["method"] == method].groupby("seed")]
        rows = [row for part in seeds if (row := _crossing(part, level)) is not None]
        intervals = [mean_interval([row[name] for row in rows]) for name in QUANTITIES]
        found.append(AtReward(method, level, len(rows), len(seeds), *intervals))
    return found


def _crossing(seed: pd.DataFrame, level: float) -> dict[str, float] | None:
    """The quantities where a seed's headline reward first reaches the level, interpolated; None if it never does."""
    values = seed["value"].to_numpy()
    above = np.flatnonzero(values >= level)
    if not len(above):
        return None
    after = int(above[0])
    before = max(after - 1, 0)
    rise = values[after] - values[before]
    share = (level - values[before]) / rise if rise > 0 else 1.0
    ends = {name: seed[name].to_numpy(dtype=np.float64)[[before, after]] for name in QUANTITIES}
    return {name: float(first + share * (last - first)) for name, (first, last) in ends.items()}


def front(points: pd.DataFrame, gain: str, cost: str, smaller: bool) -> list[str]:
    """Methods on the Pareto front: no other has both more of `gain` and less (`smaller`) or more of `cost`."""
    known = points.dropna(subset=[gain, cost])
    better = -known[cost] if smaller else known[cost]
    kept = []
    for method, value, price in zip(known["method"], known[gain], better, strict=True):
        beaten = (known[gain] >= value) & (better >= price) & ((known[gain] > value) | (better > price))
        if not beaten.any():
            kept.append(str(method))
    return kept


def tradeoffs_table(run: Records, found: Sequence[AtReward]) -> tuple[pd.DataFrame, TextTable]:
    """One row a method: what it had spent of diversity and distance when it reached the level."""
    columns = {
        "method": lambda entry: entry.method,
        "seeds that reach it": lambda entry: f"{entry.reached} of {entry.seeds}",
        "gain in training rewards": lambda entry: text.cell(entry.training, text.number),
        "diversity": lambda entry: text.cell(entry.diversity, text.number),
        "KL to base (nats)": lambda entry: text.cell(entry.kl, text.number),
    }
    level = text.number(found[0].reward) if found else ""
    reward = text.reward_name(run.suite.headline)
    note = (
        f"Each seed where its {reward} on held-out prompts first reaches {level}, interpolated between evaluations; "
        "means with Student's 95 % interval over the seeds that get there. Training rewards: gain on training prompts "
        "in standard deviations of the base model's videos. A method of which some seeds never get there is flattered."
    )
    return tidy(map(vars, found)), TextTable.of(f"At equal reward: {reward} {level}", found, columns, note)


def tradeoffs_figure(run: Records) -> Figure | None:
    """Held-out against training gain, and headline reward against diversity and KL: a line a method, its end marked."""
    frame = course_frame(run)
    reward = text.reward_name(run.suite.headline)
    axis = "gain in {} (base s.d.)".format
    kinds = [
        ("over-optimisation", "training", "headline", axis("training rewards"), axis(reward)),
        ("reward and diversity", DIVERSITY, "value", "diversity", reward),
        ("reward and distance", "kl", "value", "KL to base (nats a video)", reward),
    ]
    kinds = [entry for entry in kinds if frame[[entry[1], entry[2]]].notna().all(axis=1).any()]
    if not kinds or not (frame["iteration"] > 0).any():
        return None
    drawn, axes = panels.grid(len(kinds), 3.0)
    fronts = []
    for each, (title, x, y, below, left) in zip(axes, kinds, strict=True):
        ends = _lines(each, run, frame, x, y)
        panels.panel(each, title, below=below, left=left)
        if x == "training":
            each.axline((0, 0), slope=1, color=style.FAINT, lw=1, ls=(0, (6, 3)), zorder=1)
            continue
        if x == "kl":
            each.set_xscale("symlog", linthresh=10)
            each.set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1000"])
        fronts.append(f"{text.listed(front(ends, y, x, smaller=x == 'kl'))} ({title})")
    note = (
        "Lines: means of the finished seeds from the base model on; marks: their ends. Dashed: equal gains; below it "
        "the training rewards run ahead."
    )
    unbeaten = f"Methods that no other beats on both axes: {'; '.join(fronts)}." if fronts else ""
    return panels.finish(run, drawn, "What the gains cost", panels.handles(run), note, unbeaten)


def _lines(axes: Axes, run: Records, frame: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Draws each method's mean course; returns where they end: columns method, x, y."""
    ends = []
    for method, look in panels.looks(run).items():
        own = frame[frame["method"] == method].dropna(subset=[x, y])
        if not len(own):
            continue
        complete = own.groupby("iteration")["seed"].transform("nunique") == own["seed"].nunique()
        way = own[complete].groupby("iteration")[[x, y]].mean()
        last = own.sort_values("iteration").groupby("seed")[[x, y]].last().mean()
        way = pd.concat([way.iloc[:-1], last.to_frame().T])
        axes.plot(way[x], way[y], color=look.colour, lw=look.width, ls=look.line, zorder=look.width)
        axes.plot(last[x], last[y], marker=look.marker or ".", ms=6, color=look.colour, zorder=5)
        ends.append({"method": method, x: float(last[x]), y: float(last[y])})
    return pd.DataFrame(ends, columns=["method", x, y])
