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
_TYPES = {"method": "str", "seed": "int64", "iteration": "int64"}


@once
def cumulative_costs(run: Records) -> pd.DataFrame:
    """Cost after each recorded iteration: columns method, seed, iteration and one for each of `UNITS`, NaN if unknown.

    Iteration 0 is the start: zero, or the process reward model's training where it is charged to a method.
    """
    starts = pd.DataFrame([(m, seed, 0) for m in run.methods for seed in run.seeds(m)], columns=_KEYS)
    recorded = [frame[_KEYS].drop_duplicates() for frame in (run.evaluations, run.iterations, run.ledger)]
    steps = pd.concat([starts, *recorded]).astype(_TYPES).drop_duplicates()
    steps = steps[steps["method"] != BASE].sort_values(_KEYS, ignore_index=True)
    own, units = [steps["method"], steps["seed"]], [*SUMMED, "seconds"]
    spent = steps.merge(_spent(run).astype(_TYPES), on=_KEYS, how="left")[units]
    known = spent.groupby(own).transform("count") > 0
    total = spent.fillna(0.0).groupby(own).cumsum().where(known)
    return steps.assign(iterations=steps["iteration"].astype("float64"), **total)[[*_KEYS, *UNITS]]


def _spent(run: Records) -> pd.DataFrame:
    """What each iteration used: columns method, seed, iteration, videos, nfe, tflops, seconds.

    Without a ledger the seconds alone, from a metric that counts them from the start of training.
    """
    if not len(run.ledger):
        frame = run.iterations[run.iterations["metric"] == "seconds"].astype(_TYPES).sort_values(_KEYS)
        before = frame.groupby(["method", "seed"])["value"].shift(fill_value=0.0)
        return frame[_KEYS].assign(**dict.fromkeys(SUMMED, math.nan), seconds=frame["value"] - before)
    component, quantity = run.ledger["component"], run.ledger["quantity"]
    charged = component.isin(CHARGED) & quantity.isin(SUMMED)
    charged |= (component == WHOLE) & (quantity == "seconds")
    ledger = run.ledger[charged]
    if run.charges_prm:
        ledger = pd.concat([ledger, run.ledger[component == PRM_TRAINING].assign(iteration=0)])
    sums = ledger.groupby([*_KEYS, "quantity"], observed=True)["value"].sum().unstack()
    return sums.reindex(columns=[*SUMMED, "seconds"]).reset_index()


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
    used = means[run.budget_unit]
    spread = float(used.max() / used.min() - 1) if used.min() > 0 else math.nan
    return Spending(means, _parts(run, each), run.budget_unit, spread)


def _parts(run: Records, each: pd.DataFrame) -> pd.DataFrame:
    """Sums over iterations (largest for memory) of every component and quantity, means over counted seeds."""
    keys = ["method", "component", "quantity"]
    ledger = run.ledger.groupby(["method", "seed", "component", "quantity"], observed=True)["value"]
    frame = ledger.agg(["sum", "max"]).reset_index().astype(dict.fromkeys(keys, "str"))
    frame["value"] = frame["sum"].where(frame["quantity"] != PEAK_MEMORY, frame["max"])
    seeds = pd.concat([each[["method", "seed"]], pd.DataFrame({"method": [BASE], "seed": [0]})])
    return frame.merge(seeds, on=["method", "seed"]).groupby(keys)["value"].mean().reset_index()


def spending_frame(found: Spending) -> pd.DataFrame:
    """Totals and parts as one tidy frame: method, component (`charged` for totals), quantity, value."""
    whole = found.totals.reset_index().melt("method", var_name="quantity").dropna()
    frames = [whole.assign(component="charged"), found.parts.astype({"value": "float64"})]
    return pd.concat(frames, ignore_index=True)[["method", "component", "quantity", "value"]]
