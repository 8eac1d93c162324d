"""What guidance does while a policy is trained: does the policy take over what guidance gives, does its reward drift.

All of it is read from the diagnostics of guided methods, measured at evaluations on rollouts that are not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import text
from analysis.curves import bands, counted
from analysis.plots import panels
from analysis.records import Records
from analysis.schema import GRADIENT_SHARE, GUIDED, PROCESS_ACCURACY, UNGUIDED
from analysis.statistics import Interval, mean_interval
from analysis.tables.text_table import TextTable, tidy

_KEYS = ["method", "seed", "iteration"]
_TERM_LINES = {"outcome": "-", "process": "--", "distillation": ":", "kl": "-."}
_LINE_WORDS = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dash-dotted"}
_ONE_START = (
    "Every seed starts from one evaluation of the base policy, a group of rollouts of each of a few prompts "
    "(evaluation.diagnostic_prompts): the error of that is in no interval here."
)


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


def gaps_table(found: Sequence[Gap]) -> tuple[pd.DataFrame, TextTable]:
    """Guided less unguided reward at the first and last measurement, tidy and as text."""
    frame = tidy(
        {"method": entry.method, "reward": entry.reward}
        | {"unguided_first": entry.unguided[0], "unguided_last": entry.unguided[1]}
        | {"gap_first": entry.first, "gap_last": entry.last, "closed": entry.closed}
        | {"seeds": entry.closed.n, "verdict": entry.verdict}
        for entry in found
    )
    columns = {
        "method": lambda entry: entry.method,
        "reward": lambda entry: text.reward_name(entry.reward),
        "unguided": lambda entry: text.change(*entry.unguided),
        "gap at the start": lambda entry: text.cell(entry.first),
        "gap at the end": lambda entry: text.cell(entry.last),
        "closed by": lambda entry: text.cell(entry.closed),
        "": lambda entry: entry.verdict,
    }
    note = (
        "Rollouts of the same policy from the same noise, with guidance at its full strength and without. Gap: guided "
        "less unguided reward, with Student's 95 % interval over seeds; each interval stands for itself. It closes as "
        "the policy takes over what guidance gives, and also where guidance no longer gives anything, or where "
        f"learning makes it needless. {_ONE_START}"
    )
    return frame, TextTable.of("Guided and unguided rollouts", found, columns, note)


def accuracies_table(found: Sequence[Accuracy]) -> tuple[pd.DataFrame, TextTable]:
    """Pairwise accuracy of the process reward by noise level, at the start and at the end, tidy and as text."""
    frame = tidy({**vars(entry), "seeds": entry.change.n} for entry in found)
    columns = {
        "method": lambda entry: entry.method,
        "noise level σ": lambda entry: f"{entry.sigma:.3g}",
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
    return frame, TextTable.of("Pairwise accuracy of the process reward", found, columns, note)


def guidance_figure(run: Records) -> Figure | None:
    """A panel a reward with what guidance adds to it, the process reward's accuracy, and gradient shares; or None."""
    gap, accuracy, shares = gap_frame(run), accuracy_frame(run), share_frame(run)
    rewards = dict(iter(gap.groupby("reward", sort=False)))
    count = len(rewards) + bool(len(accuracy)) + bool(len(shares))
    if not count:
        return None
    drawn, axes = panels.grid(count, 2.35, columns=3)
    for each, (reward, own) in zip(axes, rewards.items(), strict=False):
        panels.level(each)
        panels.means(each, run, panels.over_iterations(own, "gap"), "iteration")
        name = f"gap in {text.reward_name(str(reward))}"
        panels.panel(each, name, "", "iteration", "guided − unguided", whole=True)
    involved = {*gap["method"], *accuracy["method"], *shares["method"]}
    legend = panels.handles(run, [name for name in run.methods if name in involved])
    notes = []
    if len(gap):
        notes.append("Guided rollouts at full strength, from the same noise as unguided ones.")
    if len(accuracy):
        _accuracy(axes[len(rewards)], run, accuracy)
        notes.append(
            "Accuracy: share of pairs that the process reward orders as the training reward does, on the base policy "
            "(dashed) and at the end (solid); dotted: chance."
        )
    if len(shares):
        _shares(axes[-1], run, shares)
        terms = [name for name in _TERM_LINES if name in set(shares["term"])]
        listed = ", ".join(f"{text.TERMS[name]} {_LINE_WORDS[_TERM_LINES[name]]}" for name in terms)
        notes.append(f"Gradient shares: {listed}.")
    return panels.finish(run, drawn, "What guidance does", legend, panels.band_note(run, False), *notes)


def _accuracy(axes: Axes, run: Records, accuracy: pd.DataFrame) -> None:
    """Over noise levels: dashed at each seed's first measurement, solid with a band at its last."""
    panels.level(axes, 0.5)
    seeds = accuracy.groupby(["method", "seed"])["iteration"]
    for edge, line in ((seeds.transform("min"), "--"), (seeds.transform("max"), "-")):
        at_edge = accuracy[accuracy["iteration"] == edge]
        for method, curve in bands(at_edge, ["method", "sigma"]).groupby("method", sort=False):
            x, look = curve["sigma"].to_numpy(), panels.looks(run)[str(method)]
            axes.plot(x, curve["mean"], color=look.colour, ls=line, lw=look.width, zorder=2 + look.width)
            if line == "-" and look is not panels.OTHER:
                panels.band(axes, x, curve, look.colour)
    axes.set_xlim(1.02, -0.02)
    name = "process reward's accuracy"
    panels.panel(axes, name, "", "noise level σ (1: noise, 0: video)", "share of pairs")


def _shares(axes: Axes, run: Records, shares: pd.DataFrame) -> None:
    for (method, term), own in shares.groupby(["method", "term"], sort=False):
        curve, look = panels.over_iterations(own), panels.looks(run)[str(method)]
        line = _TERM_LINES.get(str(term), (0, (1, 3)))
        axes.plot(curve["iteration"], curve["mean"], color=look.colour, ls=line, lw=look.width, zorder=4)
    axes.set_ylim(0, 1)
    panels.panel(axes, "share of the gradient", "by loss term", "iteration", "share", whole=True)
    axes.set_yticks(np.linspace(0, 1, 5))
