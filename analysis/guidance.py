"""What guidance does while a policy is trained: does the policy take over what guidance gives, does its reward drift.

All of it is read from the diagnostics of guided methods, measured at evaluations on rollouts that are not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import text
from analysis.curves import counted
from analysis.records import Records
from analysis.schema import GUIDED, PROCESS_ACCURACY, UNGUIDED
from analysis.statistics import Interval, mean_interval
from analysis.tables.text_table import TextTable, tidy

_KEYS = ["method", "seed", "iteration"]
_ONE_START = (
    "Every seed starts from one evaluation of the base policy, a group of rollouts of each of a few prompts "
    "(evaluation.diagnostic_prompts): the error of that is in no interval here."
)


@dataclass(frozen=True)
class Trend:
    """A diagnostic of one method, `of` a reward or a noise level: first and last measured, and the change between."""

    method: str
    of: str | float
    first: Interval
    last: Interval
    change: Interval


def diagnostic(run: Records, prefix: str, name: str) -> pd.DataFrame:
    """Counted seeds' values of the metrics that begin with `prefix`: columns method, seed, iteration, `name`, value."""
    metrics = run.iterations["metric"].astype(str)
    chosen = metrics.str.startswith(prefix)
    frame = run.iterations.loc[chosen, [*_KEYS, "value"]].assign(**{name: metrics[chosen].str[len(prefix) :]})
    frame = frame.astype({"method": str, "seed": "int64", "iteration": "int64", "value": "float64"})
    return counted(run, frame.dropna(subset=["value"]))


def gap_frame(run: Records) -> pd.DataFrame:
    """Columns method, seed, iteration, reward, guided, unguided, gap, where both were measured."""
    guided = diagnostic(run, GUIDED, "reward").rename(columns={"value": "guided"})
    unguided = diagnostic(run, UNGUIDED, "reward").rename(columns={"value": "unguided"})
    both = guided.merge(unguided, on=[*_KEYS, "reward"], how="inner")
    return both.assign(gap=both["guided"] - both["unguided"]).sort_values(_KEYS, ignore_index=True)


def gaps(run: Records) -> list[Trend]:
    """What guidance adds to a reward, one entry per (guided method, reward)."""
    return _trends(run, gap_frame(run), "reward", "gap")


def accuracy_frame(run: Records) -> pd.DataFrame:
    """Pairwise accuracy of the process reward: columns method, seed, iteration, sigma (a number), value."""
    frame = diagnostic(run, PROCESS_ACCURACY, "sigma")
    return frame.assign(sigma=pd.to_numeric(frame["sigma"])).sort_values([*_KEYS, "sigma"], ignore_index=True)


def accuracies(run: Records) -> list[Trend]:
    """On the base policy and at the end, one entry per (method, noise level), from noise to video."""
    return _trends(run, accuracy_frame(run).sort_values("sigma", ascending=False), "sigma", "value")


def _trends(run: Records, frame: pd.DataFrame, by: str, column: str) -> list[Trend]:
    found = []
    keys: Any
    for keys, own in frame.groupby(["method", by], sort=False):
        seeds = own.sort_values("iteration").groupby("seed")[column]
        first, last = seeds.first(), seeds.last()
        found.append(Trend(*keys, *map(mean_interval, (first, last, last - first))))
    return sorted(found, key=lambda entry: run.methods.index(entry.method))


def verdict(gap: Trend) -> str:
    """What the intervals of a gap show."""
    if not gap.change.known:
        return "unknown (one seed)"
    if not gap.change.excludes_zero:
        return "no change is shown"
    if gap.change.mean > 0:
        return "widens"
    return "narrows" if gap.last.excludes_zero and gap.last.mean > 0 else "narrows, perhaps to nothing"


def gaps_table(found: Sequence[Trend]) -> tuple[pd.DataFrame, TextTable]:
    """Guided less unguided reward at the first and last measurement, tidy and as text."""
    frame = tidy(vars(entry) | {"seeds": entry.change.n, "verdict": verdict(entry)} for entry in found)
    columns = {
        "method": lambda entry: entry.method,
        "reward": lambda entry: text.reward_name(entry.of),
        "gap at the start": lambda entry: text.cell(entry.first),
        "gap at the end": lambda entry: text.cell(entry.last),
        "change": lambda entry: text.cell(entry.change),
        "": verdict,
    }
    note = (
        "Rollouts of the same policy from the same noise, with guidance at its full strength and without. Gap: guided "
        "less unguided reward, with Student's 95 % interval over seeds; each interval stands for itself. It closes as "
        "the policy takes over what guidance gives, and also where guidance no longer gives anything, or where "
        f"learning makes it needless. {_ONE_START}"
    )
    title = "Guided and unguided rollouts"
    return frame.rename(columns={"of": "reward"}), TextTable.of(title, found, columns, note)


def accuracies_table(found: Sequence[Trend]) -> tuple[pd.DataFrame, TextTable]:
    """Pairwise accuracy of the process reward by noise level, at the start and at the end, tidy and as text."""
    frame = tidy(vars(entry) | {"seeds": entry.change.n} for entry in found)
    columns = {
        "method": lambda entry: entry.method,
        "noise level σ": lambda entry: f"{entry.of:.3g}",
        "base policy": lambda entry: text.number(entry.first.mean),
        "end of training": lambda entry: text.cell(entry.last, text.number),
        "change": lambda entry: text.cell(entry.change),
    }
    note = (
        "Share of pairs of one prompt's videos that the process reward orders as the training reward does; 0.5 is "
        "chance. On the policy's own unguided rollouts, at noise level σ (1 is noise, 0 the video). Student's 95 % "
        "intervals over seeds; each stands for itself. Where a prompt's videos have become more alike, a process "
        f"reward that has not changed orders fewer of their pairs correctly. {_ONE_START}"
    )
    title = "Pairwise accuracy of the process reward"
    return frame.rename(columns={"of": "sigma"}), TextTable.of(title, found, columns, note)
