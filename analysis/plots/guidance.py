"""The figure of what guidance does: guided rollouts, the process reward's accuracy, and shares of the gradient."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style, text
from analysis.curves import bands
from analysis.guidance import accuracy_frame, gap_frame, share_frame
from analysis.plots.panels import band, band_note, finish, grid, handles, level, means, over_iterations, panel
from analysis.records import Records

_TERM_LINES = {"outcome": "-", "process": "--", "distillation": ":", "kl": "-."}
_LINE_WORDS = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dash-dotted"}


def guidance_figure(run: Records) -> Figure | None:
    """One panel a reward with guided and unguided rollouts, one a reward with their gap, and the rest; or None.

    The rest: pairwise accuracy of the process reward by noise level, on the base policy and at the end; and the
    shares of the loss's terms in its gradient.
    """
    gaps, accuracy, shares = gap_frame(run), accuracy_frame(run), share_frame(run)
    rewards = {str(reward): part for reward, part in gaps.groupby("reward", sort=False)}
    count = 2 * len(rewards) + bool(len(accuracy)) + bool(len(shares))
    if not count:
        return None
    drawn, axes = grid(count, 2.35, len(run.methods) + 4, columns=len(rewards) if len(rewards) > 2 else 3)
    for each, (reward, own) in zip(axes, rewards.items(), strict=False):
        for name in ("unguided", "guided"):
            means(each, run, over_iterations(own, name), "iteration", dashed=name == "guided")
        panel(each, text.reward_name(reward), "of rollouts", "iteration", "mean over videos", whole=True)
    for each, (reward, own) in zip(axes[len(rewards) :], rewards.items(), strict=False):
        level(each)
        means(each, run, over_iterations(own, "gap"), "iteration")
        panel(each, f"gap in {text.reward_name(reward)}", "", "iteration", "guided − unguided", whole=True)
    if len(shares):
        _shares(axes[-1], run, shares)
    if len(accuracy):
        _accuracy(axes[2 * len(rewards)], run, accuracy)
    involved = {*gaps["method"], *accuracy["method"], *shares["method"]}
    labels = {"--": "guided, or on the base policy", "-": "unguided, or at the end"}
    legend = handles(run, [name for name in run.methods if name in involved])
    legend += [
        Line2D([], [], color=style.INK, lw=1.6, ls=line, label=label) for line, label in labels.items()
    ]
    notes = ["Guided rollouts at full strength, from the same noise as unguided ones."]
    if len(accuracy):
        notes.append(
            "Accuracy: share of pairs that the process reward orders as the training reward does (dotted: chance)."
        )
    if len(shares):
        terms = [name for name in _TERM_LINES if name in set(shares["term"])]
        listed = ", ".join(f"{text.TERMS[name]} {_LINE_WORDS[_TERM_LINES[name]]}" for name in terms)
        notes.append(f"Gradient shares: {listed}.")
    return finish(run, drawn, "What guidance does", legend, band_note(run, False), *notes)


def _accuracy(axes: Axes, run: Records, accuracy: pd.DataFrame) -> None:
    look = style.looks(run.methods)
    level(axes, 0.5)
    seeds = accuracy.groupby(["method", "seed"])["iteration"]
    ends = (seeds.transform("min"), "--", None), (seeds.transform("max"), "-", ".")
    for edge, line, marker in ends:
        at_edge = accuracy[accuracy["iteration"] == edge]
        for method, curve in bands(at_edge, ["method", "sigma"]).groupby("method", sort=False):
            x, colour = curve["sigma"].to_numpy(), look[str(method)].colour
            axes.plot(x, curve["mean"], color=colour, ls=line, lw=2, marker=marker, zorder=4)
            if line == "-":
                band(axes, x, curve, colour)
    axes.set_xlim(1.02, -0.02)
    panel(axes, "process reward's accuracy", "", "noise level σ (1: noise, 0: video)", "share of pairs")


def _shares(axes: Axes, run: Records, shares: pd.DataFrame) -> None:
    look = style.looks(run.methods)
    for (method, term), own in shares.groupby(["method", "term"], sort=False):
        curve = over_iterations(own)
        line = _TERM_LINES.get(str(term), (0, (1, 3)))
        colour = look[str(method)].colour
        axes.plot(curve["iteration"], curve["mean"], color=colour, ls=line, lw=1.8, zorder=4)
    axes.set_ylim(0, 1)
    panel(axes, "share of the gradient", "by loss term", "iteration", "share", whole=True)
    axes.set_yticks(np.linspace(0, 1, 5))
