"""What guidance does while a policy is trained: does the policy take over what guidance gives, does its reward drift.

All of it is read from the diagnostics of guided methods, measured at evaluations on rollouts that are not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.curves import counted
from analysis.records import Records
from analysis.schema import GRADIENT_SHARE, GUIDED, PROCESS_ACCURACY, UNGUIDED
from analysis.statistics import Interval, mean_interval

_KEYS = ["method", "seed", "iteration"]


@dataclass(frozen=True)
class Gap:
    """Reward of guided less that of unguided rollouts, first and last measured; `closed` is first less last."""

    method: str
    reward: str
    unguided: tuple[float, float]
    first: Interval
    last: Interval
    closed: Interval

    @property
    def verdict(self) -> str:
        """What the intervals show."""
        if not self.closed.known:
            return "unknown (one seed)"
        if not self.closed.excludes_zero:
            return "no change is shown"
        if self.closed.mean < 0:
            return "widens"
        return "narrows" if self.last.excludes_zero and self.last.mean > 0 else "narrows, perhaps to nothing"


@dataclass(frozen=True)
class Accuracy:
    """Pairwise accuracy of the process reward at one noise level: on the base policy, at the end, and its change."""

    method: str
    sigma: float
    first: Interval
    last: Interval
    change: Interval


def diagnostic(run: Records, prefix: str, name: str) -> pd.DataFrame:
    """Counted seeds' values of the metrics that begin with `prefix`: columns method, seed, iteration, `name`, value."""
    names = [metric for metric in run.iterations["metric"].unique() if str(metric).startswith(prefix)]
    chosen = run.iterations[run.iterations["metric"].isin(names)]
    ends = chosen["metric"].astype(str).str[len(prefix) :]
    frame = chosen[[*_KEYS, "value"]].assign(**{name: ends})
    frame = frame.astype({"method": str, "seed": "int64", "iteration": "int64", "value": "float64"})
    return counted(run, frame.dropna(subset=["value"]))


def gap_frame(run: Records) -> pd.DataFrame:
    """Columns method, seed, iteration, reward, guided, unguided, gap, where both were measured."""
    guided = diagnostic(run, GUIDED, "reward").rename(columns={"value": "guided"})
    unguided = diagnostic(run, UNGUIDED, "reward").rename(columns={"value": "unguided"})
    both = guided.merge(unguided, on=[*_KEYS, "reward"], how="inner")
    return both.assign(gap=both["guided"] - both["unguided"]).sort_values(_KEYS, ignore_index=True)


def gaps(run: Records) -> list[Gap]:
    """One entry per (guided method, reward)."""
    found = []
    for (method, reward), own in gap_frame(run).groupby(["method", "reward"], sort=False):
        first, last = _ends(own, "gap")
        plain = [float(end.mean()) for end in _ends(own, "unguided")]
        intervals = map(mean_interval, (first, last, first - last))
        found.append(Gap(str(method), str(reward), (plain[0], plain[1]), *intervals))
    return sorted(found, key=lambda entry: run.methods.index(entry.method))


def accuracy_frame(run: Records) -> pd.DataFrame:
    """Columns method, seed, iteration, sigma (a number), value."""
    frame = diagnostic(run, PROCESS_ACCURACY, "sigma")
    return frame.assign(sigma=pd.to_numeric(frame["sigma"])).sort_values([*_KEYS, "sigma"], ignore_index=True)


def accuracies(run: Records) -> list[Accuracy]:
    """One entry per (method, noise level), from noise to video."""
    found = []
    for (method, sigma), own in accuracy_frame(run).groupby(["method", "sigma"]):
        first, last = _ends(own, "value")
        intervals = map(mean_interval, (first, last, last - first))
        found.append(Accuracy(str(method), float(str(sigma)), *intervals))
    return sorted(found, key=lambda entry: (run.methods.index(entry.method), -entry.sigma))


def share_frame(run: Records) -> pd.DataFrame:
    """Shares of the terms of a loss in its gradient: columns method, seed, iteration, term, value."""
    return diagnostic(run, GRADIENT_SHARE, "term").sort_values(_KEYS, ignore_index=True)


def _ends(frame: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """First and last values of a column, one a seed."""
    seeds = frame.sort_values("iteration").groupby("seed")[column]
    return seeds.first().to_numpy(), seeds.last().to_numpy()
