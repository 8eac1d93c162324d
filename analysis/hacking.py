"""Whether a method improves what it is trained on more than what it is meant for.

The proxy gap is the gain on the training rewards less the gain on the headline reward, both counted in standard
deviations of the base model's videos, so that they can be subtracted: the training rewards on training prompts,
the headline on held-out ones. A gap that widens while the headline falls is reward hacking. The distance
to the base model says whether a method found better videos near it, or only went further.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import text
from analysis.curves import counted, counted_curves, seed_means
from analysis.records import Records, once
from analysis.schema import BASE, KL_TO_BASE
from analysis.statistics import Interval, mean_interval
from analysis.tables.text_table import TextTable, tidy

_KEYS = ["method", "seed", "iteration"]


@dataclass(frozen=True)
class Course:
    """How a method's seeds went: when the headline reward peaked, what was lost after, and where they ended.

    Peaks are iterations: of the first and last seed to peak, and the median; `early` is how many seeds peaked before
    their end. `lost` is the peak less the end, `gap` the proxy gap at the end in base standard deviations, `kl` the
    distance to the base at the end in nats per video.
    """

    method: str
    seeds: int
    first_peak: int
    median_peak: float
    last_peak: int
    early: int
    peak: float
    end: float
    lost: Interval
    gap: Interval
    kl: Interval


@once
def proxy_frame(run: Records) -> pd.DataFrame:
    """Standardised gains of every counted seed over training.

    Columns method, seed, iteration; `training` (weighted mean of the training rewards, on training prompts),
    `headline` (on held-out prompts) and `gap` (training less headline), in standard deviations of the base model's
    videos. NaN where the base or a split is missing.
    """
    means = seed_means(run)
    spread = _base_spread(run)
    base = means[means["method"] == BASE].set_index(["split", "reward"])["value"]
    curves = counted_curves(run).set_index([*_KEYS, "split", "reward"])["value"]
    if not len(curves):
        return pd.DataFrame(columns=[*_KEYS, "training", "headline", "gap"])
    wide = curves.unstack(["split", "reward"])
    standard = (wide - base.reindex(wide.columns)) / spread.reindex(wide.columns)
    frame = pd.DataFrame(index=wide.index)
    frame["training"] = _training(standard, run)
    frame["headline"] = standard.get(("held_out", run.suite.headline), math.nan)
    frame["gap"] = frame["training"] - frame["headline"]
    return frame.reset_index()


def _base_spread(run: Records) -> pd.Series:
    """Standard deviation of each reward over the base model's videos, by split and reward; NaN where it is 0."""
    base = run.evaluations[run.evaluations["method"] == BASE].astype({"split": str, "reward": str})
    spread = base.groupby(["split", "reward"])["value"].std(ddof=1)
    return spread.where(spread > 0)


def _training(standard: pd.DataFrame, run: Records) -> pd.Series:
    """Weighted mean of the training rewards on training prompts; NaN where one of them was not evaluated."""
    weights = np.array(list(run.suite.training.values()))
    own = standard.reindex(columns=[("train", reward) for reward in run.suite.training])
    total = np.abs(weights).sum() or math.nan
    return pd.Series(own.to_numpy() @ weights / total, index=standard.index)


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
        peaks, ends = curves.idxmax(axis=1), own.groupby("seed")["iteration"].max()
        top, end = curves.max(axis=1), curves.ffill(axis=1).iloc[:, -1]
        found.append(
            Course(
                method=method,
                seeds=len(peaks),
                first_peak=int(peaks.min()),
                median_peak=float(peaks.median()),
                last_peak=int(peaks.max()),
                early=int((peaks < ends).sum()),
                peak=float(top.mean()),
                end=float(end.mean()),
                lost=mean_interval(top - end),
                gap=_last(gaps[gaps["method"] == method], "gap"),
                kl=_last(distance[distance["method"] == method], "value"),
            )
        )
    return found


def _last(frame: pd.DataFrame, column: str) -> Interval:
    """Interval over seeds of a column's last values."""
    known = frame.dropna(subset=[column]).sort_values("iteration")
    return mean_interval(known.groupby("seed")[column].last())


def hacking_table(run: Records, found: Sequence[Course]) -> tuple[pd.DataFrame, TextTable]:
    """When the headline peaks, what is lost after it, the proxy gap at the end, and how far each method moved."""
    columns: dict[str, Callable[[Course], str]] = {
        "method": lambda entry: entry.method,
        "iteration of the peak": lambda entry: (
            f"{entry.median_peak:g}"
            + (f"\n{entry.first_peak} to {entry.last_peak}" if entry.seeds > 1 else "")
        ),
        "seeds past it": lambda entry: f"{entry.early} of {entry.seeds}",
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
        note += " KL: nats per video, over the whole path, under the memoryless SDE."
    return tidy(map(vars, found)), TextTable.of("Peaks, proxy gaps and distances", found, columns, note)
