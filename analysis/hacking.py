"""Whether a method improves what it is trained on more than what it is meant for.

The proxy gap is the gain on the training rewards less the gain on the headline reward, both counted in standard
deviations of the base model's videos, so that they can be subtracted: the training rewards on training prompts,
the headline on held-out ones. A gap that widens while the headline falls is reward hacking. The distance
to the base model says whether a method found better videos near it, or only went further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style, text
from analysis.curves import counted, counted_curves, seed_means
from analysis.plots import panels
from analysis.plots.rewards import base_value
from analysis.records import Records, once
from analysis.schema import BASE, KL_TO_BASE
from analysis.statistics import Interval, mean_interval
from analysis.tables.text_table import TextTable, tidy

DIVERSITY = "diversity"

LEAST_NATS = 10.0
"""Nearer to the base model than this, a gain for each nat is noise over nearly nothing."""

_KEYS = ["method", "seed", "iteration"]


@dataclass(frozen=True)
class Course:
    """How a method's seeds went: when the headline reward peaked, what was lost after, and where they ended.

    `peaks` are iterations, one a seed. `lost` is the peak less the end, `gap` the proxy gap at the end in base
    standard deviations, `kl` the distance to the base at the end in nats per video.
    """

    method: str
    peaks: tuple[int, ...]
    ends: tuple[int, ...]
    peak: float
    end: float
    lost: Interval
    gap: Interval
    kl: Interval
    gain: Interval

    @property
    def early(self) -> int:
        """Seeds that peaked before their end."""
        return sum(peak < end for peak, end in zip(self.peaks, self.ends, strict=True))


@once
def proxy_frame(run: Records) -> pd.DataFrame:
    """Standardised gains of every counted seed over training.

    Columns method, seed, iteration; `training` (weighted mean of the training rewards, on training prompts),
    `training_held_out` (the same on held-out prompts), `headline` (on held-out prompts) and `gap` (training less
    headline), in standard deviations of the base model's videos. NaN where the base or a split is missing.
    """
    means = seed_means(run)
    spread = _base_spread(run)
    base = means[means["method"] == BASE].set_index(["split", "reward"])["value"]
    curves = counted_curves(run).set_index([*_KEYS, "split", "reward"])["value"]
    if not len(curves):
        return pd.DataFrame(columns=[*_KEYS, "training", "training_held_out", "headline", "gap"])
    wide = curves.unstack(["split", "reward"])
    standard = (wide - base.reindex(wide.columns)) / spread.reindex(wide.columns)
    frame = pd.DataFrame(index=wide.index)
    for name, split in (("training", "train"), ("training_held_out", "held_out")):
        frame[name] = _weighted(standard, run, split)
    headline = ("held_out", run.suite.headline)
    frame["headline"] = standard.get(headline, math.nan)
    frame["gap"] = frame["training"] - frame["headline"]
    return frame.reset_index()


def _base_spread(run: Records) -> pd.Series:
    """Standard deviation of each reward over the base model's videos, by split and reward; NaN where it is 0."""
    base = run.evaluations[run.evaluations["method"] == BASE]
    spread = base.groupby(["split", "reward"], observed=True)["value"].std(ddof=1)
    spread.index = pd.MultiIndex.from_tuples(
        [(str(split), str(reward)) for split, reward in spread.index], names=["split", "reward"]
    )
    return spread.where(spread > 0)


def _weighted(standard: pd.DataFrame, run: Records, split: str) -> pd.Series:
    weights = {reward: weight for reward, weight in run.suite.training.items() if (split, reward) in standard}
    if len(weights) < len(run.suite.training) or not weights:
        return pd.Series(math.nan, index=standard.index)
    own = standard[[(split, reward) for reward in weights]]
    amounts = np.array(list(weights.values()))
    return pd.Series(own.to_numpy() @ amounts / np.abs(amounts).sum(), index=standard.index)


def kl_frame(run: Records) -> pd.DataFrame:
    """Distance to the base model: columns method, seed, iteration, value; 0 at the start. Empty if not recorded."""
    frame = run.iterations.loc[run.iterations["metric"] == KL_TO_BASE, [*_KEYS, "value"]]
    frame = frame.astype({"method": str, "seed": "int64", "iteration": "int64", "value": "float64"})
    starts = frame[["method", "seed"]].drop_duplicates().assign(iteration=0, value=0.0)
    every = pd.concat([frame, starts]).drop_duplicates(_KEYS, keep="first")
    return every.sort_values(_KEYS, ignore_index=True)


def courses(run: Records) -> list[Course]:
    """One entry a method with a finished seed, in the run's order."""
    means = counted_curves(run).dropna(subset=["value"])
    headline = means[(means["split"] == run.split) & (means["reward"] == run.suite.headline)]
    gaps, distance = proxy_frame(run), counted(run, kl_frame(run))
    found = []
    for method in (name for name in run.methods if name in set(headline["method"])):
        own = headline[headline["method"] == method]
        curves = own.pivot(index="seed", columns="iteration", values="value")
        top, end = curves.max(axis=1), curves.ffill(axis=1).iloc[:, -1]
        found.append(
            Course(
                method=method,
                peaks=tuple(map(int, curves.idxmax(axis=1))),
                ends=tuple(map(int, own.groupby("seed")["iteration"].max())),
                peak=float(top.mean()),
                end=float(end.mean()),
                lost=mean_interval(top - end),
                gap=_last(gaps[gaps["method"] == method], "gap"),
                kl=_last(distance[distance["method"] == method], "value"),
                gain=mean_interval(end - curves.bfill(axis=1).iloc[:, 0]),
            )
        )
    return found


def _last(frame: pd.DataFrame, column: str) -> Interval:
    """Interval over seeds of a column's last values."""
    known = frame.dropna(subset=[column]).sort_values("iteration")
    return mean_interval(known.groupby("seed")[column].last())


def hacking_frame(found: Sequence[Course]) -> pd.DataFrame:
    """One row a method, tidy."""
    return tidy(
        {
            "method": entry.method,
            "median_peak_iteration": median(entry.peaks),
            "seeds_that_peaked_before_the_end": entry.early,
            **{name: getattr(entry, name) for name in ("peak", "end", "lost", "gap", "kl", "gain")},
            "seeds": len(entry.peaks),
        }
        for entry in found
    )


def hacking_table(run: Records, found: Sequence[Course]) -> TextTable:
    """When the headline peaks, what is lost after it, the proxy gap at the end, and how far each method moved."""

    def peak(entry: Course) -> str:
        middle = f"{median(entry.peaks):g}"
        return middle if len(entry.peaks) < 2 else f"{middle}\n{min(entry.peaks)} to {max(entry.peaks)}"

    def efficiency(entry: Course) -> str:
        far = entry.kl.mean >= LEAST_NATS
        return text.signed(100 * entry.gain.mean / entry.kl.mean) if far else text.NONE

    columns = {
        "method": lambda entry: entry.method,
        "iteration of the peak": peak,
        "seeds past it": lambda entry: f"{entry.early} of {len(entry.peaks)}",
        "peak → end": lambda entry: text.change(entry.peak, entry.end),
        "lost after it": lambda entry: text.cell(entry.lost, text.number),
        "proxy gap at the end": lambda entry: text.cell(entry.gap),
    }
    reward = text.reward_name(run.suite.headline)
    note = (
        f"Peak of {reward} on {text.SPLIT_NAMES[run.split]}: median and range over seeds. The best of several noisy "
        "evaluations lies above the truth, so some loss after it is expected of every method. Proxy gap: gain on the "
        f"rewards trained on (training prompts) less gain on {reward} (held-out prompts), each in standard deviations "
        "of the base model's videos. Intervals: Student's 95 %, over seeds."
    )
    if any(entry.kl.n for entry in found):
        columns["KL to base at the end"] = lambda entry: text.cell(entry.kl, text.number)
        columns["gain per 100 nats"] = efficiency
        note += " KL: nats per video, over the whole path, under the memoryless SDE."
    return TextTable.of("Peaks, proxy gaps and distances", found, columns, note)


def proxy_figure(run: Records) -> Figure | None:
    """A panel a method: gain on the training rewards and on the headline, in base standard deviations."""
    proxy = proxy_frame(run)
    shown = [name for name in run.methods if name in set(proxy["method"])]
    if not shown or proxy[["training", "headline"]].isna().all().any():
        return None
    headline = text.reward_name(run.suite.headline)
    lines = {
        "training": panels.line("rewards trained on, training prompts", lw=2),
        "training_held_out": panels.line("the same, held-out prompts", kind="--", lw=1.2),
        "headline": panels.line(f"{headline}, held-out prompts", style.VERMILION, lw=2),
    }
    peaks = {entry.method: entry.peaks for entry in courses(run)}
    drawn, axes = panels.grid(len(shown), 2.2, columns=4, share_y=True)
    for each, method in zip(axes, shown, strict=True):
        panels.level(each)
        for name, look in lines.items():
            curve = panels.over_iterations(proxy[proxy["method"] == method], name)
            x, colour = curve["iteration"].to_numpy(), str(look.get_color())
            each.plot(x, curve["mean"], color=colour, ls=look.get_linestyle(), lw=look.get_linewidth())
            if name != "training_held_out":
                panels.band(each, x, curve, colour)
        at, below = peaks.get(method, ()), each.get_xaxis_transform()
        each.plot(at, [0] * len(at), "^", ms=6, color=style.VERMILION, clip_on=False, transform=below)
        panels.panel(each, method, below="iteration", left="gain (base s.d.)", whole=True)
    notes = panels.band_note(run, False, always=True), f"Triangles: where {headline} peaks in each seed."
    heading = "What is trained on against what is meant"
    return panels.finish(run, drawn, heading, list(lines.values()), *notes)


def distance_figure(run: Records) -> Figure | None:
    """The proxy gap, diversity and KL to the base over training."""
    curves = seed_means(run)
    diverse = curves[(curves["split"] == run.split) & (curves["reward"] == DIVERSITY)]
    gap = proxy_frame(run).rename(columns={"gap": "value"})
    series = [
        ("proxy gap", "base standard deviations", gap, 0.0),
        ("diversity", f"mean on {text.SPLIT_NAMES[run.split]}", counted(run, diverse), base_value(diverse)),
        ("KL to the base model", "nats per video", counted(run, kl_frame(run)), 0.0),
    ]
    series = [entry for entry in series if entry[2]["value"].notna().any()]
    if not series:
        return None
    drawn, axes = panels.grid(len(series), 2.6)
    for each, (title, left, frame, height) in zip(axes, series, strict=True):
        panels.level(each, height)
        panels.means(each, run, panels.over_iterations(frame), "iteration")
        panels.panel(each, title, below="iteration", left=left, whole=True)
    heading = "Proxy gap, diversity, and distance from the base model"
    return panels.finish(run, drawn, heading, panels.handles(run, base=True), panels.band_note(run, False))
