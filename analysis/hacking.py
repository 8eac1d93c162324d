"""Whether a method improves what it is trained on more than what it is meant for.

The proxy gap is the gain on the training rewards less the gain on the headline reward, both counted in standard
deviations of the base model's videos, so that they can be subtracted: the training rewards on training prompts,
the headline on held-out ones. A gap that widens while the headline falls is reward hacking. The distance
to the base model says whether a method found better videos near it, or only went further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.curves import counted, counted_curves, seed_means
from analysis.records import Records, once
from analysis.schema import BASE, KL_TO_BASE
from analysis.statistics import Interval, mean_interval

DIVERSITY = "diversity"
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


def reward_and_kl(run: Records) -> pd.DataFrame:
    """Headline reward on held-out prompts (`value`) and distance to the base (`kl`) where both were measured."""
    here = _headline(run)
    return here.merge(kl_frame(run).rename(columns={"value": "kl"}), on=_KEYS, how="inner")


def _headline(run: Records) -> pd.DataFrame:
    means = counted_curves(run)
    chosen = (means["split"] == run.split) & (means["reward"] == run.suite.headline)
    return means.loc[chosen, [*_KEYS, "value"]]


def courses(run: Records) -> list[Course]:
    """One entry a method with a finished seed, in the run's order."""
    headline = _headline(run).dropna(subset=["value"])
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
