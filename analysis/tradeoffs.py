"""What a gain costs beside compute: diversity, distance from the base model, and training rewards that run ahead.

Methods are compared at equal reward, not at equal time: each seed is read where its headline reward first reaches a
level, so that a method that gains more is not blamed for having moved further.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.convergence import Convergence
from analysis.curves import counted_curves
from analysis.hacking import DIVERSITY, kl_frame, proxy_frame
from analysis.records import Records
from analysis.statistics import Interval, mean_interval

SHARE = 0.75
"""Equal reward is this share of the baseline's gain, unless fewer than half of the methods get there."""

QUANTITIES = ("training", DIVERSITY, "kl")
"""What is read at equal reward: gain in the training rewards (base standard deviations), diversity, KL (nats)."""

_KEYS = ["method", "seed", "iteration"]


@dataclass(frozen=True)
class AtReward:
    """One method where its headline reward first reaches `reward`: `QUANTITIES` over the seeds that get there."""

    method: str
    reward: float
    reached: int
    seeds: int
    values: dict[str, Interval]


def course_frame(run: Records) -> pd.DataFrame:
    """How each counted seed went: columns method, seed, iteration, value, headline, training, diversity, kl.

    `value` is the headline reward, `headline` and `training` are gains in standard deviations of the base model's
    videos (training rewards on training prompts), `kl` is in nats a video, interpolated. NaN where not recorded.
    """
    means = counted_curves(run)
    split = run.splits[0] if run.splits else "held_out"
    frames = [
        means.loc[(means["split"] == split) & (means["reward"] == reward), [*_KEYS, "value"]].rename(
            columns={"value": name}
        )
        for reward, name in ((run.suite.headline, "value"), (DIVERSITY, DIVERSITY))
    ]
    gains = proxy_frame(run)[[*_KEYS, "headline", "training"]]
    frame = frames[0]
    for other in (gains, frames[1], kl_frame(run).rename(columns={"value": "kl"})):
        frame = frame.merge(other, on=_KEYS, how="left")
    frame = frame.sort_values(_KEYS, ignore_index=True)
    # Early evaluations come without diagnostics: KL lies between its neighbours.
    frame["kl"] = frame.groupby(["method", "seed"])["kl"].transform(
        lambda kl: kl.interpolate(limit_area="inside")
    )
    return frame


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
        values = {name: mean_interval([row[name] for row in rows]) for name in QUANTITIES}
        found.append(AtReward(method, level, len(rows), len(seeds), values))
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
