"""Records averaged over evaluated videos: one number per seed, iteration, prompt split and reward.

A seed is a repetition of a whole training, so seeds are what intervals are taken over; videos within a seed
are averaged first. Every method starts from the base model, whose evaluation is iteration 0 of each curve.
Only seeds that finished count in a mean: a curve whose seeds drop out on the way would jump where they do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.records import Records, once
from analysis.schema import BASE, FINISHED
from analysis.statistics import half_width

_CURVE = ["method", "seed", "iteration", "split", "reward"]
BAND = ("mean", "low", "high", "least", "most", "n")


def video_means(evaluations: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Means over videos: columns `keys` and value, which is NaN where that of any video is."""
    grouped = evaluations.groupby(list(keys), observed=True)["value"].agg(["mean", "count", "size"])
    means = grouped["mean"].where(grouped["count"] == grouped["size"]).rename("value").reset_index()
    numbers = {"seed": "int64", "iteration": "int64"}
    return means.astype({name: numbers.get(name, "str") for name in keys})


@once
def seed_means(run: Records) -> pd.DataFrame:
    """Mean over videos: columns method, seed, iteration, split, reward, value.

    The base model's means are repeated as iteration 0 of every trained seed that has none of its own. A
    mean with a NaN among its videos is NaN.
    """
    means = video_means(run.evaluations, _CURVE)
    base = means[means["method"] == BASE].drop(columns=["method", "seed", "iteration"])
    trained = means[means["method"] != BASE]
    pairs = pd.concat([trained[["method", "seed"]], run.runs[["method", "seed"]]]).drop_duplicates()
    starts = pairs.merge(base, how="cross").assign(iteration=0)[means.columns]
    curves = pd.concat([means, starts.astype(means.dtypes)]).drop_duplicates(_CURVE)
    return curves.sort_values(_CURVE, ignore_index=True)


@once
def run_status(run: Records) -> pd.DataFrame:
    """One row per (method, seed) asked for or recorded: runs.csv with `counted` and `evaluated` added.

    `evaluated` is the last iteration with an evaluation. A seed is `counted` when its status is "finished";
    where runs.csv is missing, when it was evaluated as late as the latest seed of its method.
    """
    pairs = [(method, seed) for method in run.methods for seed in run.seeds(method)]
    own = ["method", "seed"]
    status = pd.DataFrame(pairs, columns=own).astype({"method": "str", "seed": "int64"})
    status = status.merge(run.runs.astype(status.dtypes), on=own, how="left")
    status = status.join(run.last_evaluated.rename("evaluated"), on=own)
    status["evaluated"] = status["evaluated"].fillna(0).astype("int64")
    late = status["evaluated"] == status.groupby("method")["evaluated"].transform("max")
    ended = status["status"] == FINISHED if len(run.runs) else late
    status["counted"] = ended & (status["evaluated"] > 0)
    unknown = status["evaluated"].map(lambda at: "unknown" if at else "no record")
    status = status.fillna({"status": unknown, "iterations": status["evaluated"], "error": ""})
    return status.astype({"iterations": "int64", "train_seconds": "float64"})


def counted(run: Records, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of a frame with method and seed, of the seeds that count."""
    status = run_status(run)
    seeds = status.loc[status["counted"], ["method", "seed"]]
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
    known = curves.dropna(subset=["value", unit]).sort_values("iteration")
    parts = [_at_one_cost(group, unit, points) for _, group in known.groupby(list(by), observed=True)]
    return bands(pd.concat(parts) if parts else known, [*by, unit])


def _at_one_cost(curves: pd.DataFrame, unit: str, points: int) -> pd.DataFrame:
    """Curves whose seeds have points at the same costs."""
    if same_iterations(curves):
        return curves.assign(**{unit: curves.groupby("iteration")[unit].transform("mean")})
    ends = curves.groupby("seed")[unit].agg(["min", "max"])
    grid = np.linspace(ends["min"].max(), ends["max"].min(), points)
    seeds = [
        part.iloc[[0] * points].assign(**{unit: grid, "value": np.interp(grid, part[unit], part["value"])})
        for _, part in curves.groupby("seed")
    ]
    return pd.concat(seeds)


def same_iterations(curves: pd.DataFrame) -> bool:
    """Whether all seeds among these rows have points at the same iterations."""
    return bool(curves.groupby("iteration")["seed"].nunique().eq(curves["seed"].nunique()).all())
