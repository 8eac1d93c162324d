"""How well each method ends, on every reward and prompt split.

Three summaries of one thing, because each can mislead alone: the mean over videos with Student's interval over
seeds; the interquartile mean over prompts and seeds, which a few prompts cannot carry; and the share of prompts
on which a method is ahead. Pairs of methods are compared on the same, with the number of comparisons allowed for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.curves import run_status
from analysis.records import Records
from analysis.schema import BASE
from analysis.statistics import (
    Difference,
    Estimate,
    Interval,
    bootstrap,
    bootstrap_prompts,
    holm,
    interquartile_mean,
    mean_interval,
    p_value,
    pairwise_differences,
    probability_of_improvement,
    welch_difference,
)

Floats = NDArray[np.float64]

RESAMPLES = 1000
"""Of the bootstraps here: their bounds then move by less than a tenth of an interval's width between draws."""


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
    robust: Estimate
    any_prompts: Estimate
    prompts_won: Interval


@dataclass(frozen=True)
class Pair:
    """Two methods compared on one reward and split.

    On the headline reward `difference` is Welch's interval widened for all pairs (Bonferroni), and `adjusted` its
    p-value times their number: both decide alike. On the others `difference` stands for itself, and
    `adjusted` is Holm's p-value over all their pairs on the split. `improvement` is the chance that a seed of the
    first ends above one of the second, `prompts_won` the share of prompts on which the first is ahead, over the
    seeds that both have; on the headline `any_prompts` is the difference where prompts are taken for a sample.
    """

    split: str
    reward: str
    difference: Difference
    adjusted: float
    improvement: Estimate
    prompts_won: Interval
    any_prompts: Estimate | None

    @property
    def distinct(self) -> bool:
        """Whether the two are told apart, with the number of comparisons allowed for."""
        return self.adjusted < 0.05


@dataclass(frozen=True)
class Alignment:
    """Endings and pairs of a run; pairs are named best first on the headline reward."""

    endings: tuple[Ending, ...]
    pairs: tuple[Pair, ...]


def prompt_means(run: Records) -> pd.DataFrame:
    """Means over videos of a prompt at the last evaluation: columns method, seed, split, reward, prompt, value.

    Of the base model and of every seed that counts. A mean with a NaN among its videos is NaN.
    """
    status = run_status(run)
    counted = status.loc[status["counted"].astype(bool), ["method", "seed", "evaluated"]]
    ends = {(str(m), int(s)): int(at) for m, s, at in counted.itertuples(index=False)} | {(BASE, 0): 0}
    records = run.evaluations[run.evaluations["iteration"].isin(set(ends.values()))]
    wanted = pd.DataFrame([(*key, at) for key, at in ends.items()], columns=["method", "seed", "iteration"])
    names = pd.CategoricalDtype(records["method"].cat.categories) if len(records) else "str"
    last = records.merge(wanted.astype({"method": names}), on=["method", "seed", "iteration"], how="inner")
    keys = ["method", "seed", "split", "reward", "prompt"]
    grouped = last.groupby(keys, observed=True)["value"].agg(["mean", "count", "size"])
    means = grouped["mean"].where(grouped["count"] == grouped["size"]).rename("value").reset_index()
    return means.astype({"method": str, "split": str, "reward": str, "prompt": str})


def alignment(run: Records) -> Alignment:
    """All endings and pairs of a run; equal records give equal bootstraps."""
    means = prompt_means(run)
    rng = np.random.default_rng(0)
    endings: list[Ending] = []
    pairs: list[Pair] = []
    for split in run.splits:
        others: list[Pair] = []
        for reward in run.rewards:
            part = means[(means["split"] == split) & (means["reward"] == reward)]
            tables = _tables(run, part)
            base = tables.pop(BASE, None)
            if base is not None:
                endings += [_ending(split, m, reward, tables[m], base, rng) for m in tables]
            headline = reward == run.suite.headline
            found = _pairs(split, reward, tables, rng, headline)
            (pairs if headline else others).extend(found)
        pairs += _adjusted(others)
    return Alignment(tuple(endings), tuple(pairs))


def _tables(run: Records, part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """(seeds, prompts) of each method and the base, on the prompts that all have; seeds with a NaN are left out."""
    if not len(part):
        return {}
    wide = part.pivot(index=["method", "seed"], columns="prompt", values="value").dropna(axis=0)
    present = [name for name in (BASE, *run.methods) if name in set(wide.index.get_level_values("method"))]
    return {name: wide.loc[[name]].droplevel("method") for name in present}


def _ending(
    split: str, method: str, reward: str, table: pd.DataFrame, base: pd.DataFrame, rng: np.random.Generator
) -> Ending:
    values = table.to_numpy(dtype=np.float64)
    start = np.broadcast_to(base.to_numpy(dtype=np.float64)[:1], values.shape)
    return Ending(
        split,
        method,
        reward,
        float(start.mean()),
        float(values.mean()),
        mean_interval((values - start).mean(axis=1)),
        bootstrap(_interquartile, values - start, rng=rng, resamples=RESAMPLES),
        bootstrap_prompts(values, start, rng=rng, paired=True, resamples=RESAMPLES),
        share_interval(wins(values, start)),
    )


def _interquartile(values: Floats, axis: int = 0) -> Floats:
    """Of seeds (`axis`) and prompts (the last axis) together."""
    return interquartile_mean(np.moveaxis(values, axis, -2).reshape(*values.shape[:-2], -1), axis=-1)


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


def _pairs(
    split: str, reward: str, tables: Mapping[str, pd.DataFrame], rng: np.random.Generator, headline: bool
) -> list[Pair]:
    """Pairs of one reward, best first. Their p-values are not adjusted yet, except on the headline reward."""
    arrays = {name: table.to_numpy(dtype=np.float64) for name, table in tables.items()}
    seeds = {name: array.mean(axis=1) for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: -float(arrays[name].mean()))
    differences = pairwise_differences({name: seeds[name] for name in order})
    pairs = []
    for difference, (first, second) in zip(differences, combinations(order, 2), strict=True):
        raw = p_value(seeds[first], seeds[second])
        improvement = bootstrap(
            probability_of_improvement, seeds[first], seeds[second], rng=rng, resamples=RESAMPLES
        )
        shared = tables[first].index.intersection(tables[second].index)
        won = wins(tables[first].loc[shared], tables[second].loc[shared])
        pair = Pair(split, reward, difference, raw, improvement, share_interval(won), None)
        if headline:
            any_prompts = bootstrap_prompts(arrays[first], arrays[second], rng=rng, resamples=RESAMPLES)
            adjusted = raw if math.isnan(raw) else min(1.0, len(differences) * raw)
            pairs.append(replace(pair, adjusted=adjusted, any_prompts=any_prompts))
        else:
            alone = replace(difference, interval=welch_difference(seeds[first], seeds[second]))
            pairs.append(replace(pair, difference=alone))
    return pairs


def _adjusted(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of all rewards but the headline, with Holm's p-values over all of them."""
    if not pairs:
        return []
    values = holm([pair.adjusted for pair in pairs])
    return [replace(pair, adjusted=float(value)) for pair, value in zip(pairs, values, strict=True)]
