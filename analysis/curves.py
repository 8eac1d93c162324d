"""Records averaged over evaluated videos: one number per seed, iteration, prompt split and reward.

A seed is a repetition of a whole training, so seeds are what intervals are taken over; videos within a seed
are averaged first. Every method starts from the base model, whose evaluation is iteration 0 of each curve.
Only seeds that finished count in a mean: a curve whose seeds drop out on the way would jump where they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.records import Records, once
from analysis.schema import BASE, FINISHED, RUN_COLUMNS
from analysis.statistics import half_width

_CURVE = ["method", "seed", "iteration", "split", "reward"]
BAND = ("mean", "low", "high", "least", "most", "n")


@once
def seed_means(run: Records) -> pd.DataFrame:
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


@once
def run_status(run: Records) -> pd.DataFrame:
    """One row per (method, seed) asked for or recorded: runs.csv with `counted` and `evaluated` added.

    `evaluated` is the last iteration with an evaluation. A seed is `counted` when its status is "finished";
    where runs.csv is missing, when it was evaluated as late as the latest seed of its method.
    """
    last = run.last_evaluated
    known = {(str(row["method"]), int(row["seed"])): row for row in run.runs.to_dict("records")}
    rows: list[dict[Any, Any]] = []
    for method in run.methods:
        latest = max((at for (name, _), at in last.items() if name == method), default=0)
        for seed in run.seeds(method):
            evaluated = last.get((method, seed), 0)
            status = "unknown" if evaluated else "no record"
            row = known.get((method, seed), {"status": status, "iterations": evaluated, "error": ""})
            ended = row["status"] == FINISHED if known else evaluated == latest
            own = {"method": method, "seed": seed, "evaluated": evaluated, "counted": ended and evaluated > 0}
            rows.append(row | own)
    return pd.DataFrame(rows, columns=[*RUN_COLUMNS, "evaluated", "counted"]).astype({"counted": bool})


def counted(run: Records, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of a frame with method and seed, of the seeds that count."""
    status = run_status(run)
    seeds = status.loc[status["counted"], ["method", "seed"]].astype({"seed": "int64"})
    return frame.merge(seeds, on=["method", "seed"], how="inner")


def counted_curves(run: Records) -> pd.DataFrame:
    """`seed_means` of the seeds that count."""
    return counted(run, seed_means(run))


@once
def final_values(run: Records) -> pd.DataFrame:
    """Last evaluation of each seed that counts: method, seed, split, reward, iteration, base, final, gain."""
    means = seed_means(run)
    base = means[means["method"] == BASE].set_index(["split", "reward"])["value"].rename("base")
    curves = counted_curves(run)
    last = curves.groupby(["method", "seed", "split", "reward"])["iteration"].idxmax()
    final = curves.loc[last].rename(columns={"value": "final"})
    final = final.join(base, on=["split", "reward"]).assign(gain=lambda frame: frame["final"] - frame["base"])
    columns = ["method", "seed", "split", "reward", "iteration", "base", "final", "gain"]
    return final[columns].reset_index(drop=True)


def bands(curves: pd.DataFrame, by: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """Mean over seeds with its interval and range for each group: columns `by`, mean, low, high, least, most, n.

    Where some seeds of a group were measured and others were not (evaluations at other iterations), the
    group is left out: its mean would be over other seeds than its neighbours'.
    """
    grouped = curves.groupby(list(by), observed=True)["value"].agg(["mean", "std", "size", "min", "max"])
    frame = grouped.rename(columns={"size": "n", "min": "least", "max": "most"}).reset_index()
    width = half_width(frame["std"].to_numpy(), frame["n"].to_numpy(), confidence)
    frame["low"], frame["high"] = frame["mean"] - width, frame["mean"] + width
    seeds = curves.groupby("method", observed=True)["seed"].nunique()
    complete = frame["n"].to_numpy() == seeds.reindex(frame["method"].astype(str)).to_numpy(dtype=np.float64)
    return frame.loc[complete, [*by, *BAND]].reset_index(drop=True)


def over_cost(curves: pd.DataFrame, unit: str, by: Sequence[str], points: int = 41) -> pd.DataFrame:
    """As `bands`, along the cost in column `unit`: columns `by`, `unit`, mean, low, high, least, most, n.

    Seeds that were evaluated at the same iterations are averaged there, at their mean cost (what an
    iteration takes in seconds differs by chance). Others are interpolated at `points` costs that all reached.
    """
    parts = []
    for key, group in curves.dropna(subset=["value", unit]).groupby(list(by), observed=True, sort=False):
        seeds = [
            (part[unit].to_numpy(), part["value"].to_numpy())
            for _, part in group.sort_values("iteration").groupby("seed")
        ]
        if same_iterations(group):
            at = np.mean([cost for cost, _ in seeds], axis=0)
            values = np.stack([value for _, value in seeds])
        else:
            start, end = max(cost[0] for cost, _ in seeds), min(cost[-1] for cost, _ in seeds)
            at = np.linspace(start, end, points)
            values = np.stack([np.interp(at, cost, value) for cost, value in seeds])
        deviation = values.std(axis=0, ddof=1) if len(seeds) > 1 else np.full(len(at), np.nan)
        mean, width = values.mean(axis=0), half_width(deviation, len(seeds))
        numbers = {"mean": mean, "low": mean - width, "high": mean + width}
        numbers |= {"least": values.min(axis=0), "most": values.max(axis=0)}
        names = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        parts.append(pd.DataFrame({**names, unit: at, **numbers, "n": len(seeds)}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*by, unit, *BAND])


def same_iterations(curves: pd.DataFrame) -> bool:
    """Whether all seeds among these rows have points at the same iterations."""
    return bool(curves.groupby("iteration")["seed"].nunique().eq(curves["seed"].nunique()).all())
