"""One answer from several benchmarks that cannot be joined, such as other suites or other models: `analysis.pool`.

Each run gives one effect of a method against a baseline, with its error over seeds; a random-effects mean pools them
and says how much the truth itself differs between runs. Two effects are pooled: the logarithm of the whole-curve
speed-up, and the difference of final rewards in standard deviations of the base model's videos, a scale that
suites share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.commandline import closest
from analysis.convergence import check_baseline, convergence
from analysis.hacking import proxy_frame
from analysis.records import RecordError, Records
from analysis.statistics import Interval, welch_difference
from analysis.statistics.pooling import Pooled, pooled

SPEED, FINAL = "speed-up", "final difference"


@dataclass(frozen=True)
class RunEffect:
    """What one run says of the method against the baseline: on the scale that is pooled, with its standard error."""

    run: str
    value: float
    error: float
    interval: Interval


@dataclass(frozen=True)
class PooledEffects:
    """One quantity over all runs; `why_not` says why it cannot be pooled, and then there is no `result`."""

    quantity: str
    effects: tuple[RunEffect, ...]
    result: Pooled | None
    why_not: str = ""


def pool(runs: Sequence[Records], method: str, baseline: str | None = None) -> list[PooledEffects]:
    """The speed-up and the difference of final rewards of a method over a baseline, over all runs.

    Raises:
        RecordError: fewer than two runs, or one that does not hold the method or the baseline.
    """
    if len(runs) < 2:
        raise RecordError("pooling needs two runs or more; analysis.report reads a single one")
    for run in runs:
        if method not in run.methods:
            raise RecordError(f"{run.path}: no method {method!r}; {closest(method, run.methods)}")
        if check_baseline(run, baseline) == method:
            raise RecordError(f"{run.path}: {method} cannot be compared with itself; name another --baseline")
    labels = _labels(runs)
    return [
        _pooled(
            SPEED, [_speed(run, label, method, baseline) for run, label in zip(runs, labels, strict=True)]
        ),
        _pooled(
            FINAL, [_final(run, label, method, baseline) for run, label in zip(runs, labels, strict=True)]
        ),
    ]


def _labels(runs: Sequence[Records]) -> list[str]:
    """What to call each run: its folder's name, with its parent's where two are alike."""
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.path.resolve().parent.name}/{run.path.resolve().name}" for run in runs]


def _speed(run: Records, label: str, method: str, baseline: str | None) -> RunEffect | str:
    course = convergence(run, baseline)
    entry = course.speed(method, course.unit)
    if entry is None:
        return f"{label}: {course.why_not or f'no seed of {method} has finished'}"
    if not entry.ratio.low > 0:
        return f"{label}: {method}, or without one of its seeds, does not get through the range, so it has no error"
    ratio = entry.ratio
    value, low, high = (math.log(number) for number in (ratio.value, ratio.low, ratio.high))
    return RunEffect(label, value, ratio.error, Interval(value, low, high, ratio.seeds, ratio.confidence))


def _final(run: Records, label: str, method: str, baseline: str | None) -> RunEffect | str:
    name = check_baseline(run, baseline)
    frame = proxy_frame(run).sort_values("iteration").groupby(["method", "seed"])["headline"].last()
    ends = {one: frame[one].to_numpy() if one in frame else [] for one in (method, name)}
    found = welch_difference(ends[method], ends[name])
    if not found.known:
        return f"{label}: fewer than two finished seeds of {method} or {name}, or no evaluation of the base model"
    variances = [pd.Series(values).var() / len(values) for values in ends.values()]
    return RunEffect(label, found.mean, math.sqrt(sum(variances)), found)


def _pooled(quantity: str, found: Sequence[RunEffect | str]) -> PooledEffects:
    """All runs or none: to leave out the runs in which a method fails would flatter it."""
    problems = [entry for entry in found if isinstance(entry, str)]
    effects = tuple(entry for entry in found if isinstance(entry, RunEffect))
    if problems:
        return PooledEffects(quantity, effects, None, "; ".join(problems))
    return PooledEffects(quantity, effects, pooled([e.value for e in effects], [e.error for e in effects]))
