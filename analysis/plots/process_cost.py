"""The figure of what the process reward costs: speed-up, gain and accuracy over the operations that made it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis import style, text
from analysis.convergence import SPANS
from analysis.plots.panels import finish, grid, panel
from analysis.process_cost import RANGES, SHARED, Price, final_gain
from analysis.records import Records

_LOOKS = {
    None: (style.VERMILION, "o", "not charged"),
    10: (style.BLUE, "s", "shared by ten runs"),
    1: (style.INK, "^", "charged to one run"),
}
_LEVELS = 4
"""Noise levels whose accuracy is drawn, evenly spaced."""


def write_process_cost(prices: Sequence[Price], baseline: str, run: Records, folder: Path) -> list[Path]:
    """Draws `process_cost` as PNG and SVG."""
    drawn, axes = grid(2 * len(RANGES), 2.6, len(_LOOKS), columns=2)
    below = "TFLOP that made the process reward"
    for place, (each, span) in enumerate(zip(axes, RANGES, strict=False)):
        low, high = SPANS[span]
        panel(each, span, f"{100 * low:.0f} to {text.percent(high)} of {baseline}'s gain", below, "speed-up")
        _speeds(each, prices, place)
    headline = text.reward_name(run.suite.headline)
    panel(axes[-2], f"gain of {headline}", "at the end of the budget", below, "gain over base")
    _gains(axes[-2], prices, baseline, run)
    panel(axes[-1], "pairs in the right order", "of the base model's videos", below, "share of pairs")
    _accuracies(axes[-1], prices)
    for each in axes:
        each.set_xscale("log")
        each.set_xlim(prices[0].making / 1.6, prices[-1].making * 1.6)
        _plain(each.xaxis)
    legend = [
        Line2D([], [], color=colour, marker=mark, label=label) for colour, mark, label in _LOOKS.values()
    ]
    note = (
        "Vertical lines: intervals over seeds, left out where they are open. Cost is counted in operations."
    )
    finish(run, drawn, "What the process reward costs", legend, note)
    return style.save(drawn, folder, "process_cost")


def _speeds(axes: Axes, prices: Sequence[Price], place: int) -> None:
    for shift, shared in zip((-0.05, 0.0, 0.05), reversed(SHARED), strict=True):
        colour, marker, _ = _LOOKS[shared]
        at = np.array([price.making * 10**shift for price in prices])
        speeds = [price.paying[place].speed[shared] for price in prices]
        heights = [speed.value if speed.value > 0 else math.nan for speed in speeds]
        axes.plot(at, heights, color=colour, marker=marker, lw=1.2, ms=4)
        bounded = [speed.low > 0 and math.isfinite(speed.high) for speed in speeds]
        for x, speed in [(x, speed) for x, speed, known in zip(at, speeds, bounded, strict=True) if known]:
            axes.plot([x, x], [speed.low, speed.high], color=colour, lw=1)
    axes.axhline(1, color=style.FAINT, lw=1, ls=":")
    axes.set_yscale("log")
    _plain(axes.yaxis)


def _gains(axes: Axes, prices: Sequence[Price], baseline: str, run: Records) -> None:
    at = [price.making for price in prices]
    axes.plot(at, [price.gain.mean for price in prices], color=style.VERMILION, marker="o", lw=1.2, ms=4)
    axes.vlines(
        at, *zip(*((p.gain.low, p.gain.high) for p in prices), strict=True), color=style.VERMILION, lw=1
    )
    axes.axhline(0, color=style.FAINT, lw=1, ls=":")
    axes.axhline(final_gain(run, baseline).mean, color=style.BLUE, lw=1.2, ls="--", label=baseline)
    axes.legend(fontsize=8, frameon=False)


def _accuracies(axes: Axes, prices: Sequence[Price]) -> None:
    levels = sorted(set.intersection(*(set(price.accuracy) for price in prices)))
    chosen = [levels[round(k * (len(levels) - 1) / (_LEVELS - 1))] for k in range(_LEVELS)] if levels else []
    colours = (style.BLACK, style.BLUE, style.SKY, style.ORANGE)
    at = [price.making for price in prices]
    for level, colour in zip(dict.fromkeys(chosen), colours, strict=False):
        heights = [price.accuracy[level] for price in prices]
        axes.plot(at, heights, color=colour, marker="o", lw=1.2, ms=4, label=f"{level:.2g}")
    axes.axhline(0.5, color=style.FAINT, lw=1, ls=":")
    axes.legend(title="noise level", fontsize=8, title_fontsize=8, frameon=False)


def _plain(axis: Axis) -> None:
    """Numbers as people write them on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
