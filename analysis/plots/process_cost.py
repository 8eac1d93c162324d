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
from analysis.process_cost import RANGES, SHARED, Price, final_gain
from analysis.records import Records
from analysis.statistics import Estimate

_LOOKS = {
    None: (style.VERMILION, "o", "not charged"),
    10: (style.BLUE, "s", "shared by ten runs"),
    1: (style.INK, "^", "charged to one run"),
}
_LEVELS = 4
"""Noise levels whose accuracy is drawn, evenly spaced."""


def write_process_cost(prices: Sequence[Price], baseline: str, run: Records, folder: Path) -> list[Path]:
    """Draws `process_cost` as PNG and SVG."""
    drawn = style.figure(8.4, 6.6)
    axes = drawn.subplots(2, len(RANGES)).flatten()
    for place, span in enumerate(RANGES):
        _speeds(axes[place], prices, place)
        low, high = SPANS[span]
        axes[place].set_title(f"{100 * low:.0f} to {text.percent(high)} of {baseline}'s gain", fontsize=9)
    _gains(axes[-2], prices, baseline, run)
    _accuracies(axes[-1], prices)
    ends = prices[0].making / 1.6, prices[-1].making * 1.6
    for each in axes:
        each.set_xscale("log")
        each.set_xlim(*ends)
        _plain(each.xaxis)
        each.set_xlabel("TFLOP that made the process reward")
        style.tidy(each)
    legend = [
        Line2D([], [], color=colour, marker=marker, label=label) for colour, marker, label in _LOOKS.values()
    ]
    axes[0].legend(handles=legend, fontsize=7, frameon=False, loc="best")
    drawn.suptitle("What the process reward costs", fontsize=11, x=0.01, ha="left")
    return list(style.save(drawn, folder, "process_cost"))


def _speeds(axes: Axes, prices: Sequence[Price], place: int) -> None:
    for shift, shared in zip((-0.05, 0.0, 0.05), reversed(SHARED), strict=True):
        colour, marker, _ = _LOOKS[shared]
        at = np.array([price.making * 10**shift for price in prices])
        speeds = [price.paying[place].speed[shared] for price in prices]
        heights = [speed.value if speed.value > 0 else math.nan for speed in speeds]
        axes.plot(at, heights, color=colour, marker=marker, lw=1.2, ms=4)
        for x, speed in zip(at, speeds, strict=True):
            _bar(axes, x, speed, colour)
    axes.axhline(1, color=style.FAINT, lw=1, ls=":")
    axes.set_yscale("log")
    _plain(axes.yaxis)
    axes.set_ylabel("speed-up in operations")


def _bar(axes: Axes, x: float, speed: Estimate, colour: str) -> None:
    if speed.known and speed.low > 0 and math.isfinite(speed.high):
        axes.plot([x, x], [speed.low, speed.high], color=colour, lw=1)


def _gains(axes: Axes, prices: Sequence[Price], baseline: str, run: Records) -> None:
    at = [price.making for price in prices]
    axes.plot(at, [price.gain.mean for price in prices], color=style.VERMILION, marker="o", lw=1.2, ms=4)
    for x, price in zip(at, prices, strict=True):
        axes.plot([x, x], [price.gain.low, price.gain.high], color=style.VERMILION, lw=1)
    axes.axhline(0, color=style.FAINT, lw=1, ls=":")
    axes.axhline(final_gain(run, baseline).mean, color=style.BLUE, lw=1.2, ls="--", label=baseline)
    axes.legend(fontsize=7, frameon=False)
    axes.set_ylabel(f"gain of {text.reward_name(run.suite.headline)}")
    axes.set_title("at the end of the budget", fontsize=9)


def _accuracies(axes: Axes, prices: Sequence[Price]) -> None:
    levels = sorted(set.intersection(*(set(price.accuracy) for price in prices)))
    chosen = [levels[round(k * (len(levels) - 1) / (_LEVELS - 1))] for k in range(_LEVELS)] if levels else []
    colours = (style.BLACK, style.BLUE, style.SKY, style.ORANGE)
    for level, colour in zip(dict.fromkeys(chosen), colours, strict=False):
        heights = [price.accuracy[level] for price in prices]
        axes.plot(
            [p.making for p in prices], heights, color=colour, marker="o", lw=1.2, ms=4, label=f"{level:.2g}"
        )
    axes.axhline(0.5, color=style.FAINT, lw=1, ls=":")
    axes.legend(title="noise level", fontsize=7, title_fontsize=7, frameon=False)
    axes.set_ylabel("pairs ordered rightly")
    axes.set_title("of the base model's videos", fontsize=9)


def _plain(axis: Axis) -> None:
    """Numbers as people write them on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
