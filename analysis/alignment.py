"""How well each method ends, on every reward and prompt split.

Summaries of one thing, because each can mislead alone: the mean over videos with Student's interval over seeds; the
interquartile mean over prompts and seeds, which a few prompts cannot carry; and the share of prompts on which a method
is ahead. Pairs of methods are compared by Games and Howell's intervals, which hold together for all pairs of a reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.curves import run_status, video_means
from analysis.records import Records
from analysis.schema import BASE
from analysis.statistics import (
    Difference,
    Interval,
    mean_interval,
    pairwise_differences,
    probability_of_improvement,
)

Floats = NDArray[np.float64]

_KEYS = ["method", "seed", "iteration"]

FEWEST_FOR_BOOTSTRAP = 10
"""With fewer seeds a bootstrap interval is too narrow (docs/statistics.md) and none is given."""


@dataclass(frozen=True)
class Ending:
    """How a method ends on one reward and split.

    `mean` is the gain over the base model with Student's interval over seeds; `robust` the interquartile mean of the
    gains of all prompts and seeds; `prompts_won` the share of prompts with a gain (equal ones count half), over seeds.
    `base` and `final` are means over videos.
    """

    split: str
    method: str
    reward: str
    base: float
    final: float
    mean: Interval
    robust: Interval
    prompts_won: Interval


@dataclass(frozen=True)
class Pair:
    """Two methods compared on one reward and split.

    `difference` holds together with those of all pairs of the reward. `improvement` is the share of pairs of seeds in
    which the first ends above the second, `prompts_won` the share of prompts on which the first is ahead, over the
    seeds that both have.
    """

    split: str
    reward: str
    difference: Difference
    improvement: float
    prompts_won: Interval


@dataclass(frozen=True)
class Alignment:
    """Endings and pairs of a run; pairs are named best first on each reward."""

    endings: tuple[Ending, ...]
    pairs: tuple[Pair, ...]


def prompt_means(run: Records) -> pd.DataFrame:
    """Means over videos of a prompt at the last evaluation: columns method, seed, split, reward, prompt, value.

    Of the base model and of every seed that counts. A mean with a NaN among its videos is NaN.
    """
    ends = run_status(run).query("counted")[["method", "seed", "evaluated"]].set_axis(_KEYS, axis=1)
    ends = pd.concat([ends, pd.DataFrame([(BASE, 0, 0)], columns=_KEYS)])
    late = run.evaluations[run.evaluations["iteration"].isin(set(ends["iteration"]))]
    means = video_means(late, [*_KEYS, "split", "reward", "prompt"])
    return means.merge(ends.astype({"seed": int, "iteration": int}), on=_KEYS).drop(columns="iteration")


def alignment(run: Records) -> Alignment:
    """All endings and pairs of a run; equal records give equal bootstraps."""
    means = prompt_means(run)
    endings: list[Ending] = []
    pairs: list[Pair] = []
    for split in run.splits:
        for reward in run.rewards:
            # On the prompts of this split; a seed with a NaN is left out.
            part = means[(means["split"] == split) & (means["reward"] == reward)]
            wide = part.pivot(index=["method", "seed"], columns="prompt", values="value").dropna()
            tables = {str(name): table.droplevel("method") for name, table in wide.groupby(level="method")}
            trained = {name: tables[name] for name in run.methods if name in tables}
            if BASE in tables:
                base = tables[BASE].to_numpy()[:1]
                endings += [_ending(split, name, reward, trained[name].to_numpy(), base) for name in trained]
            pairs += _pairs(split, reward, trained)
    return Alignment(tuple(endings), tuple(pairs))


def _ending(split: str, method: str, reward: str, values: Floats, base: Floats) -> Ending:
    """From (seeds, prompts) of the method and (1, prompts) of the base model."""
    gains = values - base
    return Ending(
        split,
        method,
        reward,
        base=float(base.mean()),
        final=float(values.mean()),
        mean=mean_interval(gains.mean(axis=1), size=float(np.abs(values).max())),
        robust=_robust(gains),
        prompts_won=share_interval(wins(values, base)),
    )


def _robust(gains: Floats) -> Interval:
    """Interquartile mean over seeds and prompts, (seeds, prompts), with a bootstrap over seeds if there are enough."""
    seeds, value = len(gains), float(stats.trim_mean(gains, 0.25, axis=None))
    if seeds < FEWEST_FOR_BOOTSTRAP:
        return Interval.around(value, math.nan, seeds)

    def middle(chosen: NDArray[np.int64], axis: int) -> Floats:
        return np.asarray(stats.trim_mean(gains[chosen].reshape(*chosen.shape[:-1], -1), 0.25, axis=axis))

    rng = np.random.default_rng(0)
    drawn = stats.bootstrap((np.arange(seeds),), middle, n_resamples=1000, method="percentile", rng=rng)
    found = drawn.confidence_interval
    return Interval(value, float(found.low), float(found.high), seeds)


def wins(first: ArrayLike, second: ArrayLike) -> Floats:
    """Share of prompts (last axis) on which each seed of `first` is above `second`; ties count half."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.asarray(((one > other) + 0.5 * (one == other)).mean(axis=-1))


def share_interval(shares: ArrayLike) -> Interval:
    """Student's interval of a share, cut at 0 and 1."""
    found = mean_interval(shares)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def _pairs(split: str, reward: str, tables: Mapping[str, pd.DataFrame]) -> list[Pair]:
    """Pairs of one reward, best first, from (seeds, prompts) of each method."""
    order = sorted(tables, key=lambda name: -float(tables[name].to_numpy().mean()))
    seeds = {name: tables[name].mean(axis=1).to_numpy() for name in order}
    pairs = []
    for difference, names in zip(pairwise_differences(seeds), combinations(order, 2), strict=True):
        first, second = (tables[name] for name in names)
        shared = first.index.intersection(second.index)
        chance = probability_of_improvement(*(seeds[name] for name in names))
        won = share_interval(wins(first.loc[shared], second.loc[shared]))
        pairs.append(Pair(split, reward, difference, chance, won))
    return pairs
