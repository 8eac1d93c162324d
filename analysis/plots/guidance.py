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
from analysis.plots.panels import band, band_note, footer, grid, handles, means, panel
from analysis.records import Records

_TERM_LINES = {"outcome": "-", "process": "--", "distillation": ":", "kl": "-."}


def guidance_figure(run: Records) -> Figure | None:
    """One panel a reward with guided and unguided rollouts, one a reward with their gap, and the rest; or None.

    The rest: pairwise accuracy of the process reward by noise level, on the base policy and at the end; and the
    shares of the loss's terms in its gradient.
    """
    gaps, accuracy, shares = gap_frame(run), accuracy_frame(run), share_frame(run)
    rewards = list(dict.fromkeys(gaps["reward"]))
    count = 2 * len(rewards) + bool(len(accuracy)) + bool(len(shares))
    if not count:
        return None
    drawn, axes, _ = grid(count, 2.35, len(run.methods) + 4, columns=len(rewards) if len(rewards) > 2 else 3)
    free = iter(axes)
    for reward in rewards:
        own = gaps[gaps["reward"] == reward]
        each = next(free)
        for name in ("unguided", "guided"):
            means(each, run, _bands(own, name), "iteration", dashed=name == "guided")
        panel(each, text.reward_name(reward), "of rollouts", "iteration", "mean over videos", whole=True)
    for reward in rewards:
        each = next(free)
        each.axhline(0, color=style.BASE_LOOK.colour, lw=1.2, ls=":")
        means(each, run, _bands(gaps[gaps["reward"] == reward], "gap"), "iteration")
        panel(each, f"gap in {text.reward_name(reward)}", "", "iteration", "guided − unguided", whole=True)
    if len(accuracy):
        _accuracy(next(free), run, accuracy)
    if len(shares):
        _shares(next(free), run, shares)
    involved = set(gaps["method"]) | set(accuracy["method"]) | set(shares["method"])
    methods = [name for name in run.methods if name in involved]
    legend = [*handles(run, methods), *_line_handles()]
    style.surround(
        drawn, "What guidance does", footer(run, band_note(run, False), _note(accuracy, shares)), legend
    )
    return drawn


def _bands(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    values = frame[["method", "seed", "iteration", name]].rename(columns={name: "value"})
    return bands(values, ["method", "iteration"])


def _line_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=style.INK, lw=1.6, ls="--", label="guided, or on the base policy"),
        Line2D([], [], color=style.INK, lw=1.6, label="unguided, or at the end"),
    ]


def _note(accuracy: pd.DataFrame, shares: pd.DataFrame) -> str:
    notes = ["Guided rollouts at full strength, from the same noise as unguided ones."]
    if len(accuracy):
        notes.append(
            "Accuracy: share of pairs that the process reward orders as the training reward does (dotted: chance)."
        )
    if len(shares):
        terms = [name for name in _TERM_LINES if name in set(shares["term"])]
        marks = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dash-dotted"}
        listed = ", ".join(f"{text.TERMS[name]} {marks[_TERM_LINES[name]]}" for name in terms)
        notes.append(f"Gradient shares: {listed}.")
    return " ".join(notes)


def _accuracy(axes: Axes, run: Records, accuracy: pd.DataFrame) -> None:
    look = style.looks(run.methods)
    axes.axhline(0.5, color=style.BASE_LOOK.colour, lw=1.2, ls=":")
    for method in dict.fromkeys(accuracy["method"]):
        own = accuracy[accuracy["method"] == method]
        bounds = own.groupby("seed")["iteration"].agg(["min", "max"])
        for edge, line in (("min", "--"), ("max", "-")):
            at = own["iteration"].to_numpy() == own["seed"].map(bounds[edge]).to_numpy()
            curve = bands(own[at], ["method", "sigma"]).sort_values("sigma")
            x = curve["sigma"].to_numpy()
            colour = look[str(method)].colour
            axes.plot(
                x, curve["mean"], color=colour, ls=line, lw=2, marker="." if line == "-" else None, zorder=4
            )
            if line == "-":
                band(axes, x, curve, colour)
    axes.set_xlim(1.02, -0.02)
    panel(axes, "process reward's accuracy", "", "noise level σ (1: noise, 0: video)", "share of pairs")


def _shares(axes: Axes, run: Records, shares: pd.DataFrame) -> None:
    look = style.looks(run.methods)
    for (method, term), own in shares.groupby(["method", "term"], sort=False):
        curve = bands(own, ["method", "iteration"])
        x = curve["iteration"].to_numpy()
        line = _TERM_LINES.get(str(term), (0, (1, 3)))
        axes.plot(x, curve["mean"], color=look[str(method)].colour, ls=line, lw=1.8, zorder=4)
    axes.set_ylim(0, 1)
    axes.set_yticks(np.linspace(0, 1, 5))
    panel(axes, "share of the gradient", "by loss term", "iteration", "share", whole=True)
