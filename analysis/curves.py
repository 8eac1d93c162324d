"""Records averaged over evaluated videos: one number per seed, iteration, prompt split and reward.

A seed is a repetition of a whole training, so seeds are what intervals are taken over; videos within a seed
are averaged first. Every method starts from the base model, whose evaluation is iteration 0 of each curve.
Only seeds that finished count in a mean: a curve whose seeds drop out on the way would jump where they do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.records import BASE, RUN_COLUMNS, Run
from analysis.statistics import half_width

FINISHED = "finished"
_CURVE = ["method", "seed", "iteration", "split", "reward"]


def seed_means(run: Run) -> pd.DataFrame:
    """Mean over videos: columns method, seed, iteration, split, reward, value.

    The base model's means are repeated as iteration 0 of every trained seed that has none of its own. A
    mean with a NaN among its videos is NaN.
    """
    grouped = run.evaluations.groupby(_CURVE, observed=True)["value"].agg(["mean", "count", "size"])
    means = grouped["mean"].where(grouped["count"] == grouped["size"]).rename("value").reset_index()
    for name in ("method", "split", "reward"):
        means[name] = means[name].astype(str)
    base = means[means["method"] == BASE].drop(columns=["method", "seed", "iteration"])
    trained = means[means["method"] != BASE]
    pairs = pd.concat([trained[["method", "seed"]], run.runs[["method", "seed"]]]).drop_duplicates()
    starts = pairs.merge(base, how="cross").assign(iteration=0)[means.columns]
    parts = [part for part in (means, starts) if len(part)]
    curves = pd.concat(parts).drop_duplicates(_CURVE, keep="first") if parts else means
    curves = curves.astype({"seed": "int64", "iteration": "int64"})
    return curves.sort_values(_CURVE, ignore_index=True)


def run_status(run: Run) -> pd.DataFrame:
    """One row per (method, seed) asked for or recorded: runs.csv with `counted` and `evaluated` added.

    `evaluated` is the last iteration with an evaluation. A seed is `counted` when its status is "finished";
    where runs.csv is missing, when it was evaluated as late as the latest seed of its method.
    """
    last = run.last_evaluated
    known = {(str(row["method"]), int(row["seed"])): row for row in run.runs.to_dict("records")}
    rows = []
    for method in run.methods:
        latest = max((at for (name, _), at in last.items() if name == method), default=0)
        for seed in run.seeds(method):
            evaluated = last.get((method, seed), 0)
            if (method, seed) in known:
                row = known[method, seed]
                counted = row["status"] == FINISHED and evaluated > 0
            else:
                row = {
                    "status": "unknown" if evaluated else "no record",
                    "iterations": evaluated,
                    "error": "",
                }
                counted = not known and 0 < evaluated == latest
            rows.append({"method": method, "seed": seed, **row, "evaluated": evaluated, "counted": counted})
    return pd.DataFrame(rows, columns=[*RUN_COLUMNS, "evaluated", "counted"])


def counted_curves(run: Run, curves: pd.DataFrame | None = None) -> pd.DataFrame:
    """`seed_means` of the seeds that count."""
    means = seed_means(run) if curves is None else curves
    status = run_status(run)
    counted = status.loc[status["counted"], ["method", "seed"]]
    return means.merge(counted.astype({"seed": "int64"}), on=["method", "seed"], how="inner")


def final_values(run: Run, curves: pd.DataFrame | None = None) -> pd.DataFrame:
    """Last evaluation of each seed that counts: method, seed, split, reward, iteration, base, final, gain."""
    means = seed_means(run) if curves is None else curves
    base = means[means["method"] == BASE].set_index(["split", "reward"])["value"].rename("base")
    counted = counted_curves(run, means)
    last = counted.groupby(["method", "seed", "split", "reward"])["iteration"].idxmax()
    final = counted.loc[last].rename(columns={"value": "final"})
    final = final.join(base, on=["split", "reward"]).assign(gain=lambda frame: frame["final"] - frame["base"])
    return final[["method", "seed", "split", "reward", "iteration", "base", "final", "gain"]].reset_index(
        drop=True
    )


def bands(curves: pd.DataFrame, by: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """Mean over seeds with its interval for each group: columns `by`, mean, low, high, n.

    Where some seeds of a group were measured and others were not (evaluations at other iterations), the
    group is left out: its mean would be over other seeds than its neighbours'.
    """
    grouped = curves.groupby(list(by), observed=True)["value"].agg(["mean", "std", "size"])
    frame = grouped.rename(columns={"size": "n"}).reset_index()
    width = half_width(frame["std"].to_numpy(), frame["n"].to_numpy(), confidence)
    frame["low"], frame["high"] = frame["mean"] - width, frame["mean"] + width
    seeds = curves.groupby("method", observed=True)["seed"].nunique()
    complete = frame["n"].to_numpy() == seeds.reindex(frame["method"].astype(str)).to_numpy(dtype=np.float64)
    return frame.loc[complete, [*by, "mean", "low", "high", "n"]].reset_index(drop=True)
