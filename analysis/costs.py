"""What training cost: compute used up to each iteration, in every unit that a budget can be counted in.

The ledger of a run says what each iteration used, by component; this module adds it up. Rollouts, updates,
the process reward, decoding and outcome rewards are charged. Evaluation is not: a user who trains does not
need it. Training the process reward model is charged where the run's settings say so (`charge_prm`), as a
cost that is there before the first iteration. Records without a ledger still give iterations and seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analysis.curves import counted
from analysis.records import Records, once
from analysis.schema import BASE, CHARGED, PEAK_MEMORY, PRM_TRAINING, SUMMED, UNITS, WHOLE

MATCHED = 0.05
"""Totals within this share of each other count as one budget."""

_KEYS = ["method", "seed", "iteration"]


@once
def cumulative_costs(run: Records) -> pd.DataFrame:
    """Cost after each iteration: columns method, seed, iteration and one for each of `UNITS`, NaN if unknown.

    Iteration 0 is the start: zero, or the process reward model's training where it is charged to a method.
    """
    steps = _steps(run)
    spent = _spent(run)
    table = steps.merge(spent, on=_KEYS, how="left").sort_values(_KEYS, ignore_index=True)
    groups = table.groupby(["method", "seed"])
    for unit in (*SUMMED, "seconds"):
        known = groups[unit].transform("count") > 0
        table[unit] = table[unit].fillna(0.0).groupby([table["method"], table["seed"]]).cumsum().where(known)
    if run.charges_prm:
        table = _with_prm(run, table)
    table["iterations"] = table["iteration"].astype("float64")
    return table[[*_KEYS, *UNITS]]


def _steps(run: Records) -> pd.DataFrame:
    """Every (method, seed, iteration) that was trained, from 0."""
    own = ["method", "seed"]
    pairs = pd.DataFrame([(m, seed) for m in run.methods for seed in run.seeds(m)], columns=own)
    recorded = [frame[_KEYS] for frame in (run.evaluations, run.iterations, run.ledger) if len(frame)]
    ends = [frame.groupby(own, observed=True)["iteration"].max().reset_index() for frame in recorded]
    last = pd.concat([frame.astype({"method": "str"}) for frame in ends]).groupby(own)["iteration"].max()
    counts = pairs.join(last, on=own)["iteration"].fillna(0).astype("int64") + 1
    steps = pairs.loc[pairs.index.repeat(counts)]
    frame = steps.assign(iteration=steps.groupby(level=0).cumcount()).reset_index(drop=True)
    return frame.astype({"method": "str", "seed": "int64", "iteration": "int64"})


def _spent(run: Records) -> pd.DataFrame:
    """What each iteration used: columns method, seed, iteration, videos, nfe, tflops, seconds."""
    ledger = run.ledger
    if not len(ledger):
        return _seconds_alone(run)
    charged = ledger["component"].isin(CHARGED) & ledger["quantity"].isin(SUMMED)
    charged |= (ledger["component"] == WHOLE) & (ledger["quantity"] == "seconds")
    sums = ledger[charged].groupby([*_KEYS, "quantity"], observed=True)["value"].sum().unstack()
    frame = sums.reindex(columns=[*SUMMED, "seconds"]).reset_index()
    frame["method"] = frame["method"].astype("str")
    return frame


def _seconds_alone(run: Records) -> pd.DataFrame:
    """Without a ledger: the metric `seconds`, which counts from the start of training, as differences."""
    frame = run.iterations[run.iterations["metric"] == "seconds"]
    frame = frame[[*_KEYS, "value"]].astype({"method": "str", "seed": "int64", "iteration": "int64"})
    frame = frame.sort_values(_KEYS).rename(columns={"value": "total"})
    before = frame.groupby(["method", "seed"])["total"].shift(fill_value=0.0)
    unknown = dict.fromkeys(SUMMED, math.nan)
    return frame.assign(**unknown, seconds=frame["total"] - before).drop(columns="total")


def _with_prm(run: Records, table: pd.DataFrame) -> pd.DataFrame:
    trained = run.ledger[run.ledger["component"] == PRM_TRAINING]
    sums = trained.groupby(["method", "seed", "quantity"], observed=True)["value"].sum().reset_index()
    for method, seed, quantity, value in sums.itertuples(index=False):
        if quantity in (*SUMMED, "seconds"):
            own = (table["method"] == str(method)) & (table["seed"] == seed)
            table.loc[own, str(quantity)] += float(value)
    return table


def known_units(costs: pd.DataFrame) -> tuple[str, ...]:
    """Units in which every trained (method, seed) has a cost: what curves can be drawn against."""
    trained = costs[costs["iteration"] > 0]
    return tuple(unit for unit in UNITS if len(trained) and bool(trained[unit].notna().all()))


def with_costs(run: Records, curves: pd.DataFrame) -> pd.DataFrame:
    """Curves (method, seed, iteration, ...) with the cost of their points in every unit; the base is left out."""
    trained = curves[curves["method"] != BASE]
    return trained.merge(cumulative_costs(run), on=_KEYS, how="left")


def totals(run: Records) -> pd.DataFrame:
    """What each seed that counts used in all: columns method, seed and one for each of `UNITS`."""
    spent = cumulative_costs(run)
    last = spent.loc[spent.groupby(["method", "seed"])["iteration"].idxmax()]
    return counted(run, last)[["method", "seed", *UNITS]].reset_index(drop=True)


@dataclass(frozen=True)
class Spending:
    """Compute of a run's methods.

    Attributes:
        totals: mean over counted seeds of each method's total in every unit; index method, columns `UNITS`.
        parts: columns method, component, quantity, value: means over counted seeds, evaluation included.
        unit: the unit of the budget.
        spread: largest total in that unit over the smallest, less one; NaN when it is unknown.
    """

    totals: pd.DataFrame
    parts: pd.DataFrame
    unit: str
    spread: float

    @property
    def matched(self) -> bool:
        """Whether all methods used one amount of the budget's unit."""
        return self.spread <= MATCHED


def spending(run: Records) -> Spending:
    """What each method used, and whether that was the same for all."""
    each = totals(run)
    means = each.groupby("method")[list(UNITS)].mean()
    means = means.reindex([name for name in run.methods if name in means.index])
    unit = run.budget_unit
    used = means[unit] if unit in means and len(means) else pd.Series([math.nan])
    lowest = float(used.min())
    spread = float(used.max()) / lowest - 1 if lowest > 0 else math.nan
    return Spending(means, _parts(run, each), unit, spread)


def _parts(run: Records, each: pd.DataFrame) -> pd.DataFrame:
    """Sums over iterations (largest for memory) of every component and quantity, means over counted seeds."""
    keys = ["method", "component", "quantity"]
    if not len(run.ledger):
        return pd.DataFrame(columns=[*keys, "value"])
    ledger = run.ledger.groupby(["method", "seed", "component", "quantity"], observed=True)["value"]
    frame = ledger.agg(["sum", "max"]).reset_index().astype(dict.fromkeys(keys, "str"))
    frame["value"] = frame["sum"].where(frame["quantity"] != PEAK_MEMORY, frame["max"])
    seeds = pd.concat([each[["method", "seed"]], pd.DataFrame({"method": [BASE], "seed": [0]})])
    frame = frame.merge(seeds, on=["method", "seed"], how="inner")
    return frame.groupby(keys)["value"].mean().reset_index()


def spending_frame(found: Spending) -> pd.DataFrame:
    """Totals and parts as one tidy frame: method, component (`charged` for totals), quantity, value."""
    whole = found.totals.reset_index().melt("method", var_name="quantity").dropna()
    frames = [frame for frame in (whole.assign(component="charged"), found.parts) if len(frame)]
    columns = ["method", "component", "quantity", "value"]
    return pd.concat(frames or [found.parts], ignore_index=True)[columns]
