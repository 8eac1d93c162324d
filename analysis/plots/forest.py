"""Forest plot: what each of several runs says, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.pool import SPEED, PooledEffects
from analysis.statistics import Interval

_ROW = 0.34  # inches


def forest_figure(found: Sequence[PooledEffects], method: str, baseline: str) -> Figure:
    """A panel a quantity: a line a run, its square the larger the more it weighs, and the pooled mean below."""
    rows = max(len(entry.effects) for entry in found) + 1
    drawn = style.figure(9.0, _ROW * rows + 1.6)
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
    scale: Callable[[float], float] = math.exp if ratio else float
    weights = entry.result.weights if entry.result else [1 / max(len(entry.effects), 1)] * len(entry.effects)
    names = []
    for row, (effect, weight) in enumerate(zip(entry.effects, weights, strict=True)):
        _line(axes, effect.interval, scale, row, style.INK)
        axes.plot(
            scale(effect.value), row, marker="s", ms=3 + 8 * math.sqrt(weight), color=style.BLUE, zorder=4
        )
        names.append(effect.run)
    if entry.result:
        _line(axes, entry.result.mean, scale, len(names), style.VERMILION)
        axes.plot(
            scale(entry.result.mean.mean), len(names), marker="D", ms=9, color=style.VERMILION, zorder=4
        )
        names.append("pooled")
    axes.axvline(1 if ratio else 0, color=style.BASE_LOOK.colour, lw=1.2, ls=":", zorder=1)
    style.tidy(axes)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    if ratio:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}×" if value in (0.5, 2, 5) else "")
        axes.tick_params(which="both", labelsize=8.5)
    title = "whole-curve speed-up" if ratio else "difference of final rewards (base s.d.)"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=style.INK)


def _line(axes: Axes, interval: Interval, scale: Callable[[float], float], row: int, colour: str) -> None:
    axes.plot([scale(interval.low), scale(interval.high)], [row, row], color=colour, lw=1.6, zorder=3)
