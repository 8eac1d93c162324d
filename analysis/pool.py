"""One answer from several benchmarks that cannot be joined, such as other suites or other models: `analysis.pool`.

Each run gives one effect of a method against a baseline, with its error over seeds; a random-effects mean pools them
and says how much the truth itself differs between runs. Two effects are pooled: the logarithm of the whole-curve
speed-up, and the difference of final rewards in standard deviations of the base model's videos, a scale that
suites share.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, text
from analysis.commandline import closest, command
from analysis.convergence import check_baseline, convergence
from analysis.hacking import proxy_frame
from analysis.plots import panels
from analysis.records import RecordError, Records, load_run
from analysis.statistics import Interval, welch_difference
from analysis.statistics.pooling import Pooled, pooled
from analysis.tables.text_table import TextTable, to_text, write_table

SPEED, FINAL = "speed-up", "final difference"


@dataclass(frozen=True)
class RunEffect:
    """What one run says of the method against the baseline: on the scale that is pooled, with its standard error."""

    run: str
    interval: Interval
    error: float


@dataclass(frozen=True)
class PooledEffects:
    """One quantity over all runs; `why_not` says why it cannot be pooled, and then there is no `result`."""

    quantity: str
    effects: tuple[RunEffect, ...]
    result: Pooled | None
    why_not: str = ""

    @property
    def lines(self) -> list[tuple[str, Interval, float]]:
        """Each run and, last, `pooled` where there is one: on the scale that a reader sees, with its error."""
        entries = [(effect.run, effect.interval, effect.error) for effect in self.effects]
        if self.result:
            entries.append(("pooled", self.result.mean, math.nan))
        if self.quantity != SPEED:
            return entries
        return [(run, _ratio(interval), error) for run, interval, error in entries]


def _ratio(logarithm: Interval) -> Interval:
    mean, low, high = map(math.exp, (logarithm.mean, logarithm.low, logarithm.high))
    return Interval(mean, low, high, logarithm.n, logarithm.confidence)


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
    named = list(zip(runs, _labels(runs), strict=True))
    return [
        _pooled(quantity, [effect(run, label, method, baseline) for run, label in named])
        for quantity, effect in ((SPEED, _speed), (FINAL, _final))
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
    return RunEffect(label, Interval(value, low, high, ratio.seeds, ratio.confidence), ratio.error)


def _final(run: Records, label: str, method: str, baseline: str | None) -> RunEffect | str:
    name = check_baseline(run, baseline)
    frame = proxy_frame(run).sort_values("iteration").groupby(["method", "seed"])["headline"].last()
    ends = {one: frame[one].to_numpy() if one in frame else [] for one in (method, name)}
    found = welch_difference(ends[method], ends[name])
    if not found.known:
        return f"{label}: fewer than two finished seeds of {method} or {name}, or no evaluation of the base model"
    variances = [pd.Series(values).var() / len(values) for values in ends.values()]
    return RunEffect(label, found, math.sqrt(sum(variances)))


def _pooled(quantity: str, found: Sequence[RunEffect | str]) -> PooledEffects:
    """All runs or none: to leave out the runs in which a method fails would flatter it."""
    problems = [entry for entry in found if isinstance(entry, str)]
    effects = tuple(entry for entry in found if isinstance(entry, RunEffect))
    if problems:
        return PooledEffects(quantity, effects, None, "; ".join(problems))
    means, errors = [entry.interval.mean for entry in effects], [entry.error for entry in effects]
    return PooledEffects(quantity, effects, pooled(means, errors))


def pool_frame(found: Sequence[PooledEffects]) -> pd.DataFrame:
    """One row per (quantity, run), and one `pooled` where there is one; speed-ups as ratios."""
    return pd.DataFrame(
        {"quantity": entry.quantity, "run": run, "estimate": shown.mean, "low": shown.low, "high": shown.high}
        | {"error": error, "n": shown.n}
        | {"between_runs": entry.result.between if entry.result and run == "pooled" else math.nan}
        for entry in found
        for run, shown, error in entry.lines
    )


def pool_table(entry: PooledEffects, method: str, baseline: str) -> TextTable:
    """One quantity as a reader sees it: a row a run, the pooled mean last."""
    ratio = entry.quantity == SPEED

    def estimate(shown: Interval) -> str:
        if ratio:
            return f"{text.ratio(shown.mean)} ({text.bounds(shown.low, shown.high)})"
        return f"{text.signed(shown.mean)} ({text.interval(shown)})"

    columns: dict[str, Callable[[tuple[str, Interval, float]], str]] = {
        "run": lambda line: line[0],
        "seeds": lambda line: text.count(line[1].n, "run") if line[0] == "pooled" else str(line[1].n),
        "estimate": lambda line: estimate(line[1]),
    }
    note = "Each run: 95 % interval over its seeds."
    if entry.result:
        note += (
            " Pooled: random effects (Paule and Mandel), with Hartung and Knapp's 95 % interval over runs. The truth "
            f"differs between runs with a standard deviation of {text.number(entry.result.between)}"
            f"{' of the logarithm' if ratio else ''}; {text.percent(entry.result.heterogeneity)} of the variance "
            "between estimates is more than their own error."
        )
    else:
        note += f" Not pooled: {entry.why_not}. Leaving runs out would flatter one side."
    return TextTable.of(f"{method} against {baseline}: {_scale(entry)}", entry.lines, columns, note)


def _scale(entry: PooledEffects) -> str:
    return "whole-curve speed-up" if entry.quantity == SPEED else "difference of final rewards (base s.d.)"


def forest_figure(found: Sequence[PooledEffects], method: str, baseline: str) -> Figure:
    """A panel a quantity: a line a run, its square the larger the more it weighs, and the pooled mean below."""
    rows = max(len(entry.lines) for entry in found)
    drawn = style.figure(9.0, 0.34 * rows + 1.6)
    for axes, entry in zip(drawn.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _panel(axes, entry)
    note = (
        "Lines: 95 % intervals over seeds. Squares: larger for runs that weigh more. Diamond: random-effects mean over "
        "runs with its interval."
    )
    style.surround(drawn, f"{method} against {baseline}, run by run", note, [])
    return drawn


def _panel(axes: Axes, entry: PooledEffects) -> None:
    ratio = entry.quantity == SPEED
    weights = entry.result.weights if entry.result else [1 / len(entry.effects) for _ in entry.effects]
    sizes = [3 + 8 * math.sqrt(weight) for weight in weights]
    marks = [(style.BLUE, "s", size) for size in sizes] + [(style.VERMILION, "D", 9.0)]
    for row, (_, shown, _) in enumerate(entry.lines):
        colour, marker, size = marks[row]
        panels.estimate(axes, row, shown.mean, shown.low, shown.high, colour, marker=marker, ms=size)
    panels.panel(axes, _scale(entry))
    panels.rows(axes, [run for run, _, _ in entry.lines], origin=1 if ratio else 0)
    if ratio:
        panels.times(axes)


def _report(options: argparse.Namespace, output: Path) -> str:
    runs = [load_run(path) for path in options.runs]
    found = pool(runs, options.method, options.baseline)
    baseline = text.listed(list(dict.fromkeys(check_baseline(run, options.baseline) for run in runs)), "or")
    tables = [pool_table(entry, options.method, baseline) for entry in found]
    write_table(output / "tables", "pooled", pool_frame(found), tables)
    style.save(forest_figure(found, options.method, baseline), output / "figures", "forest")
    return "\n".join(map(to_text, tables))


main = command(
    "analysis.pool",
    "One random-effects estimate of a method against a baseline, from several benchmarks.",
    _report,
    method=True,
)


if __name__ == "__main__":
    sys.exit(main())
