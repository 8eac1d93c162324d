"""How many seeds the next benchmark needs: `python -m analysis.power RUN`.

From the spread over seeds that a run shows: how many seeds of each method would show a small and a large
speed-up over the baseline. The target is a part of the baseline's own gain in the headline reward.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.special import chdtri

from analysis import text
from analysis.combine import load_runs
from analysis.convergence import Curves, check_baseline, curve_arrays
from analysis.costs import cumulative_costs, known_units, with_costs
from analysis.curves import counted_curves
from analysis.records import RecordError, Records
from analysis.schema import UNITS
from analysis.statistics import SeedPlan, log_cost_spread, seeds_needed
from analysis.tables.text_table import TextTable, to_text

RATIOS = (1.25, 1.66)
"""Speed-ups asked about: a small one, and one that a paper would report."""

POWER = 0.8

_CAUTION = 0.8  # confidence of the upper limit of the spread


@dataclass(frozen=True)
class Need:
    """Seeds that show speed-ups of `method` over the baseline.

    `spread` is the standard deviation over seeds of the log cost to the target, of both methods together;
    `upper` its upper 80 % limit, as few seeds know their own spread badly. `plans` and `cautious` hold one
    plan a ratio for either.
    """

    method: str
    spread: float
    upper: float
    plans: tuple[SeedPlan, ...]
    cautious: tuple[SeedPlan, ...]


def power_note(
    run: Records, baseline: str | None = None, target_fraction: float = 0.8, unit: str = "iterations"
) -> TextTable:
    """Seeds needed to show speed-ups by `RATIOS` with power 0.8, one row per method other than the baseline.

    The target is the base model's value plus `target_fraction` of the baseline's gain in the headline reward;
    without `baseline` it is the one that speed-ups are reported over. A run that cannot say gives a table
    without rows whose note tells why. Raises `RecordError` for a baseline or a unit that the run does not
    have, `ValueError` for a fraction that is none.
    """
    if not 0 < target_fraction <= 1:
        raise ValueError(
            f"target fraction must be above 0 and at most 1, not {target_fraction:g}; 0.8 is usual"
        )
    name = check_baseline(run, baseline)
    title = f"Seeds needed to show a speed-up over {name}, counted in {unit}"
    columns = ("method", "spread of log cost", *(f"{ratio:g} times" for ratio in RATIOS))
    split = run.splits[0] if run.splits else "held_out"
    curves = _curves(run, split, unit)
    why = _impossible(curves, name)
    if why:
        return TextTable(title, columns, (), why)
    start, end = curves[name].values[:, [0, -1]].mean(axis=0)
    if not end > start:
        return TextTable(title, columns, (), f"{name} does not gain over the base model: there is no target.")
    target = float(start + target_fraction * (end - start))
    others = {method: found for method, found in curves.items() if method != name}
    others = others or {f"one like {name}": curves[name]}
    needs = [_need(method, found, curves[name], target) for method, found in others.items()]
    note = _sentence(run, needs, name, target, target_fraction, split)
    return TextTable(title, columns, tuple(_row(need) for need in needs), note)


def _curves(run: Records, split: str, unit: str) -> dict[str, Curves]:
    """Headline reward of each method's seeds that finished, against their costs in a unit."""
    known = known_units(cumulative_costs(run))
    if unit not in known:
        raise RecordError(f"no costs in {unit!r} were recorded in {run.path}: there are {', '.join(known)}")
    means = counted_curves(run)
    chosen = means[(means["split"] == split) & (means["reward"] == run.suite.headline)]
    joined = with_costs(run, chosen)
    found = {method: curve_arrays(joined[joined["method"] == method], unit) for method in run.methods}
    return {method: curves for method, curves in found.items() if curves is not None}


def _impossible(curves: Mapping[str, Curves], baseline: str) -> str:
    if baseline not in curves:
        return (
            f"No finished seed of {baseline} was evaluated along the way, so there is no curve to plan with."
        )
    single = [method for method, found in curves.items() if len(found.values) < 2]
    if single:
        return f"One finished seed of {text.listed(single)}: a spread over seeds needs two or more."
    return ""


def _need(method: str, curves: Curves, baseline: Curves, target: float) -> Need:
    own = _spread(curves, target)
    other = _spread(baseline, target)
    counts = len(curves.values) - 1, len(baseline.values) - 1
    squares = own**2, other**2
    spread = math.sqrt(sum(squares) / 2)
    if not spread > 0:
        return Need(method, spread, math.nan, (), ())
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / counts[0] + squares[1] ** 2 / counts[1])
    upper = spread * math.sqrt(freedom / float(chdtri(freedom, _CAUTION)))
    plans, cautious = (
        tuple(seeds_needed(ratio, deviation, power=POWER) for ratio in RATIOS)
        for deviation in (spread, upper)
    )
    return Need(method, spread, upper, plans, cautious)


def _spread(curves: Curves, target: float) -> float:
    """NaN where the curves start at the target or above."""
    if curves.values[:, 0].mean() >= target:
        return math.nan
    return log_cost_spread(curves.cost, curves.values, target)


def _row(need: Need) -> tuple[str, ...]:
    if not need.plans:
        return (need.method, text.NONE, *[text.NONE] * len(RATIOS))
    pairs = zip(need.plans, need.cautious, strict=True)
    return (
        need.method,
        text.number(need.spread),
        *(f"{_seeds(plan)} (up to {_seeds(cautious)})" for plan, cautious in pairs),
    )


def _seeds(plan: SeedPlan) -> str:
    return "over 1000" if plan.seeds is None else str(plan.seeds)


def _sentence(
    run: Records, needs: Sequence[Need], baseline: str, target: float, fraction: float, split: str
) -> str:
    reward = text.reward_name(run.suite.headline)
    goal = f"{text.number(target)} in {reward} on {text.SPLIT_NAMES[split]} ({fraction:.0%} of {baseline}'s gain)"
    sentences = []
    known = [need for need in needs if need.plans]
    if known:
        sentences.append(
            f"To show with {POWER:.0%} power that a method reaches {goal} {RATIOS[-1]:g} times sooner than "
            f"{baseline}, {_span([need.plans[-1] for need in known])} seeds a method are needed, and "
            f"{_span([need.plans[0] for need in known])} to show {RATIOS[0]:g} times. In brackets: if the spread "
            "is at its upper 80 % limit, since few seeds know their own spread badly."
        )
    unknown = [need.method for need in needs if not need.plans]
    if unknown:
        sentences.append(
            f"Nothing can be planned for {text.listed(unknown, 'or')}: one of the two mean curves, moved by its "
            f"standard error, does not cross {goal}. A lower target fraction may do."
        )
    return " ".join(sentences)


def _span(plans: Sequence[SeedPlan]) -> str:
    counts = [math.inf if plan.seeds is None else plan.seeds for plan in plans]
    low, high = min(counts), max(counts)
    ends = ["over 1000" if math.isinf(count) else f"{count:.0f}" for count in (low, high)]
    return ends[0] if low == high else f"{ends[0]} to {ends[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how many seeds are needed; exit code 2 and one line when the runs or the question are no good."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.power",
        description="How many seeds would show a speed-up, from the spread over seeds that runs show.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder given to benchmarks.run as --output"
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="the method to be faster than (dance_grpo, else flow_grpo, else the run's first)",
    )
    parser.add_argument(
        "--target-fraction",
        type=float,
        default=0.8,
        metavar="X",
        help="part of the baseline's gain in the headline reward that is to be reached (0.8)",
    )
    parser.add_argument(
        "--unit", choices=tuple(UNITS), default="iterations", help="what is spent (iterations)"
    )
    options = parser.parse_args(arguments)
    try:
        note = power_note(load_runs(options.runs), options.baseline, options.target_fraction, options.unit)
    except ValueError as error:  # of which RecordError is one
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(to_text(note))
    return 0


if __name__ == "__main__":
    sys.exit(main())
