"""How well each method ends, on every reward and prompt split.

Summaries of one thing, because each can mislead alone: the mean over videos with Student's interval over seeds; the
interquartile mean over prompts and seeds, which a few prompts cannot carry; the mean where prompts, too, are taken
for a sample; and the share of prompts on which a method is ahead. Pairs of methods are compared by Games and
Howell's intervals, which hold together for all pairs of a reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.curves import run_status
from analysis.records import Records
from analysis.schema import BASE
from analysis.statistics import (
    Difference,
    Interval,
    interquartile_mean,
    mean_interval,
    over_prompts,
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
    gains of all prompts and seeds; `any_prompts` the mean gain where prompts, too, are taken for a sample;
    `prompts_won` the share of prompts with a gain (equal ones count half), over seeds. `base` and `final` are
    means over videos.
    """

    split: str
    method: str
    reward: str
    base: float
    final: float
    mean: Interval
    robust: Interval
    any_prompts: Interval
    prompts_won: Interval


@dataclass(frozen=True)
class Pair:
    """Two methods compared on one reward and split.

    `difference` holds together with those of all pairs of the reward. `improvement` is the share of pairs of seeds in
    which the first ends above the second, `prompts_won` the share of prompts on which the first is ahead, over the
    seeds that both have; `any_prompts` is the difference where prompts are taken for a sample, by itself.
    """

    split: str
    reward: str
    difference: Difference
    improvement: float
    prompts_won: Interval
    any_prompts: Interval


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
    ends = pd.concat([ends, pd.DataFrame([(BASE, 0, 0)], columns=_KEYS)]).astype(
        {"seed": int, "iteration": int}
    )
    records = run.evaluations[run.evaluations["iteration"].isin(set(ends["iteration"]))]
    names = pd.CategoricalDtype(records["method"].cat.categories) if len(records) else "str"
    last = records.merge(ends.astype({"method": names}), on=_KEYS, how="inner")
    keys = ["method", "seed", "split", "reward", "prompt"]
    grouped = last.groupby(keys, observed=True)["value"].agg(["mean", "count", "size"])
    means = grouped["mean"].where(grouped["count"] == grouped["size"]).rename("value").reset_index()
    return means.astype(dict.fromkeys(("method", "split", "reward", "prompt"), str))


def alignment(run: Records) -> Alignment:
    """All endings and pairs of a run; equal records give equal bootstraps."""
    means = prompt_means(run)
    endings: list[Ending] = []
    pairs: list[Pair] = []
    for split in run.splits:
        for reward in run.rewards:
            tables = _tables(run, means[(means["split"] == split) & (means["reward"] == reward)])
            base = tables.pop(BASE, None)
            if base is not None:
                endings += [_ending(split, m, reward, tables[m], base) for m in tables]
            pairs += _pairs(split, reward, tables)
    return Alignment(tuple(endings), tuple(pairs))


def _tables(run: Records, part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """(seeds, prompts) of each method and the base, on the prompts that all have; seeds with a NaN are left out."""
    if not len(part):
        return {}
    wide = part.pivot(index=["method", "seed"], columns="prompt", values="value").dropna(axis=0)
    present = [name for name in (BASE, *run.methods) if name in set(wide.index.get_level_values("method"))]
    return {name: wide.loc[[name]].droplevel("method") for name in present}


def _ending(split: str, method: str, reward: str, table: pd.DataFrame, base: pd.DataFrame) -> Ending:
    values, start = table.to_numpy(dtype=np.float64), base.to_numpy(dtype=np.float64)[:1]
    gains = values - start
    return Ending(
        split,
        method,
        reward,
        float(start.mean()),
        float(values.mean()),
        mean_interval(gains.mean(axis=1), size=float(np.abs(values).max())),
        _robust(gains),
        over_prompts(values, start),
        share_interval(wins(values, np.broadcast_to(start, values.shape))),
    )


def _robust(gains: Floats) -> Interval:
    """Interquartile mean over seeds and prompts, (seeds, prompts), with a bootstrap over seeds if there are enough."""
    seeds, value = len(gains), float(interquartile_mean(gains.ravel()))
    if seeds < FEWEST_FOR_BOOTSTRAP:
        return Interval(value, np.nan, np.nan, seeds)
    found = stats.bootstrap(
        (np.arange(seeds),),
        lambda chosen, axis: interquartile_mean(gains[chosen], axis=(axis - 1, -1)),
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high), seeds)


def wins(first: ArrayLike, second: ArrayLike) -> Floats:
    """Share of prompts (last axis) on which each seed of `first` is above `second`; ties count half."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.asarray(((one > other) + 0.5 * (one == other)).mean(axis=-1), dtype=np.float64)


def share_interval(shares: ArrayLike) -> Interval:
    """Student's interval of a share, cut at 0 and 1."""
    found = mean_interval(shares)
    if not found.known:
        return found
    return Interval(found.mean, max(found.low, 0.0), min(found.high, 1.0), found.n, found.confidence)


def _pairs(split: str, reward: str, tables: Mapping[str, pd.DataFrame]) -> list[Pair]:
    """Pairs of one reward, best first."""
    arrays = {name: table.to_numpy(dtype=np.float64) for name, table in tables.items()}
    seeds = {name: array.mean(axis=1) for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: -float(arrays[name].mean()))
    differences = pairwise_differences({name: seeds[name] for name in order})
    pairs = []
    for difference, (first, second) in zip(differences, combinations(order, 2), strict=True):
        shared = tables[first].index.intersection(tables[second].index)
        won = wins(tables[first].loc[shared], tables[second].loc[shared])
        chance = probability_of_improvement(seeds[first], seeds[second])
        prompts = over_prompts(arrays[first], arrays[second])
        if min(difference.seeds) < 2:  # one seed is a sample of seeds, too, and shows no spread
            prompts = Interval(prompts.mean, np.nan, np.nan, 1)
        pairs.append(Pair(split, reward, difference, chance, share_interval(won), prompts))
    return pairs
