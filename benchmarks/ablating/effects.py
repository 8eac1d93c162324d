"""What a crossed design found: main effects and interactions with intervals, as a table and a forest plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from analysis import text
from analysis.records import Records
from analysis.statistics import Interval, mean_interval, satterthwaite
from analysis.style import FAINT, figure, looks, save, surround, tidy
from benchmarks.ablating.crossing import MAIN, Cell, Contrast, Design, contrasts
from benchmarks.ablating.table import (
    BEYOND,
    CONFIDENCE,
    NOT_SHOWN,
    UNKNOWN,
    headline_ends,
    markdown_row,
    seeds_text,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """A contrast as it was found.

    Attributes:
        contrast: which.
        interval: its value; its `n` is the smallest number of seeds of a cell.
        freedom: degrees of freedom; NaN without an interval.
        why: what keeps it from having a value or an interval; empty where nothing does.
    """

    contrast: Contrast
    interval: Interval
    freedom: float
    why: str

    @property
    def verdict(self) -> str:
        """Whether its interval excludes zero."""
        if not self.interval.known:
            return UNKNOWN
        return BEYOND if self.interval.excludes_zero else NOT_SHOWN


def contrast_interval(
    weights: Sequence[float], groups: Sequence[ArrayLike], confidence: float = CONFIDENCE
) -> tuple[Interval, float]:
    """A weighted sum of means, each group with a spread of its own, and its degrees of freedom.

    The squared standard error is the sum of w^2 s^2 / n, and its degrees of freedom are Satterthwaite's: its square
    over the sum of (w^2 s^2 / n)^2 / (n - 1). Two groups with weights 1 and -1 are Welch's difference.

    Args:
        weights: one a group.
        groups: values over seeds, (n,) each.
        confidence: of the interval.

    Returns:
        The interval and the degrees of freedom. A group without values leaves both unknown (NaN), one with a single
        value, or groups without any spread, the interval.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    least = min(array.size for array in arrays)
    if least == 0:
        return Interval(math.nan, math.nan, math.nan, 0, confidence), math.nan
    mean = float(sum(weight * array.mean() for weight, array in zip(weights, arrays, strict=True)))
    if least == 1:
        return Interval(mean, math.nan, math.nan, 1, confidence), math.nan
    sizes = np.array([array.size for array in arrays], dtype=np.float64)
    shares = np.square(weights) * np.array([array.var(ddof=1) for array in arrays]) / sizes
    total = float(shares.sum())
    if not total > 0:
        return Interval(mean, math.nan, math.nan, least, confidence), math.nan
    freedom = satterthwaite(shares, sizes - 1)
    width = float(stdtrit(freedom, (1 + confidence) / 2) * math.sqrt(total))
    return Interval(mean, mean - width, mean + width, least, confidence), freedom


def estimate(design: Design, ends: Mapping[Cell, ArrayLike]) -> list[Effect]:
    """All contrasts of a design.

    With m contrasts each interval is drawn at 1 - 0.05 / m (Bonferroni), so that all of them hold together with 95 %
    confidence.

    Args:
        design: the cells.
        ends: cell -> its value at the end, one a seed; empty where no seed finished.
    """
    found = contrasts(design)
    level = 1 - (1 - CONFIDENCE) / len(found)
    effects = []
    for contrast in found:
        groups = [ends[cell] for cell in contrast.weights]
        interval, freedom = contrast_interval(list(contrast.weights.values()), groups, level)
        effects.append(Effect(contrast, interval, freedom, _why(design, contrast, ends)))
    return effects


def _why(design: Design, contrast: Contrast, ends: Mapping[Cell, ArrayLike]) -> str:
    """What is missing: cells without a seed, or else with a single one."""
    sizes = {cell: np.size(ends[cell]) for cell in contrast.weights}
    for count, what, every in ((0, "no finished seed of", "any cell"), (1, "one seed of", "each cell")):
        if lacking := [design.name(cell) for cell, size in sizes.items() if size == count]:
            return f"{what} {text.listed(lacking) if len(lacking) < len(sizes) else every}"
    return ""


def effects_of(run: Records, design: Design) -> tuple[dict[Cell, Floats], list[Effect]]:
    """The cells' headline rewards on held-out prompts at the end, one a seed that finished, and the effects."""
    values = headline_ends(run, design.methods.values())
    ends = {cell: values[method] for cell, method in design.methods.items()}
    return ends, estimate(design, ends)


def effects_frame(effects: Sequence[Effect]) -> pd.DataFrame:
    """All numbers, one row an effect."""
    return pd.DataFrame(
        [
            {
                "kind": effect.contrast.kind,
                "effect": effect.contrast.label,
                **{
                    f"{part}_{number}": value
                    for number, (factor, (level, first)) in enumerate(
                        [*effect.contrast.levels.items(), ("", ("", ""))][:2], start=1
                    )
                    for part, value in (("factor", factor), ("level", level), ("against", first))
                },
                "cells": len(effect.contrast.weights),
                "seeds_least": effect.interval.n,
                "estimate": effect.interval.mean,
                "low": effect.interval.low,
                "high": effect.interval.high,
                "confidence": effect.interval.confidence,
                "degrees_of_freedom": effect.freedom,
                "verdict": effect.verdict,
                "missing": effect.why,
            }
            for effect in effects
        ]
    )


#: Columns of the table as people read it.
COLUMNS = ("effect", "size", "interval", "")


def effect_cells(effects: Sequence[Effect]) -> list[tuple[str, ...]]:
    """The table as strings, in the order of `COLUMNS`."""
    return [
        (
            effect.contrast.label,
            text.signed(effect.interval.mean),
            text.interval(effect.interval),
            f"{effect.verdict}: {effect.why}" if effect.why else effect.verdict,
        )
        for effect in effects
    ]


def effects_note(run: Records, design: Design, effects: Sequence[Effect]) -> str:
    """What the numbers are."""
    questions = [f"{name}: {about}" for name, about in design.abouts.items() if about]
    return " ".join(
        [
            f"Of {text.reward_name(run.suite.headline)} on held-out prompts at {run.budget}. A main effect (−) is a "
            "level's mean less the first level's; an interaction (×) is how much larger the one level's effect is "
            "where the other factor has the level named than where it has its first. Both average over the other "
            "factors' levels, each cell weighing alike. Intervals over seeds, each cell with a spread of its own "
            f"(Welch, Satterthwaite), each at {100 * effects[0].interval.confidence:.4g} % so that all {len(effects)} "
            f"hold together with 95 % confidence; {BEYOND}: zero lies outside.",
            *questions,
        ]
    )


def effects_markdown(
    run: Records, base: str, design: Design, ends: Mapping[Cell, Floats], effects: Sequence[Effect]
) -> str:
    """The effects, and below them the cells that they are made of."""
    cell_columns = (*design.levels, "final", "95 % interval", "seeds")
    rows = []
    for cell, values in ends.items():
        own = mean_interval(values)
        bounds = f"{text.number(own.low)} to {text.number(own.high)}" if own.known else "no interval"
        rows.append((*cell, text.number(own.mean), bounds, str(own.n)))
    return "\n".join(
        [
            f"## Main effects and interactions of {base}",
            "",
            *_table(COLUMNS, effect_cells(effects)),
            "",
            effects_note(run, design, effects),
            "",
            "### Cells",
            "",
            *_table(cell_columns, rows),
            "",
            "Each interval is Student's over seeds and stands for itself.",
            "",
        ]
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [markdown_row(columns), f"|{'---|' * len(columns)}", *map(markdown_row, rows)]


def write_effects(
    run: Records,
    base: str,
    design: Design,
    ends: Mapping[Cell, Floats],
    effects: Sequence[Effect],
    folder: Path,
) -> None:
    """Writes `tables/contrasts.csv`, `.md`, and `figures/contrasts.png`, `.svg`."""
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    effects_frame(effects).to_csv(tables / "contrasts.csv", index=False, float_format="%.6g")
    (tables / "contrasts.md").write_text(effects_markdown(run, base, design, ends, effects), encoding="utf-8")
    if any(not math.isnan(effect.interval.mean) for effect in effects):
        _figure(run, base, ends, effects, folder / "figures")


def _figure(
    run: Records, base: str, ends: Mapping[Cell, Floats], effects: Sequence[Effect], folder: Path
) -> list[Path]:
    """Effects with their intervals, one line each, a gap between main effects and interactions."""
    gap = 0.6
    places = [number + gap * (effect.contrast.kind != MAIN) for number, effect in enumerate(effects)]
    drawn, style = figure(7.4, 1.6 + 0.27 * (places[-1] + 1)), looks([base])[base]
    axes = drawn.subplots()
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=FAINT, linewidth=1)
    for place, effect in zip(places, effects, strict=True):
        shown = effect.interval
        colour = style.colour if shown.excludes_zero else FAINT
        if math.isnan(shown.mean):
            axes.text(
                0.02,
                place,
                "no estimate: a cell has no finished seed",
                fontsize=8,
                color=FAINT,
                va="center",
                transform=axes.get_yaxis_transform(),
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
            continue
        if shown.known:
            axes.plot([shown.low, shown.high], [place, place], color=colour, linewidth=1.8)
        face = colour if shown.known else "white"
        axes.plot(
            [shown.mean], [place], color=colour, marker=style.marker, markersize=5.5, markerfacecolor=face
        )
    axes.margins(x=0.06)
    axes.set_yticks(places, [effect.contrast.label for effect in effects])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlabel(f"difference of {text.reward_name(run.suite.headline)}, held-out prompts")
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, label=BEYOND),
        Line2D([], [], color=FAINT, marker=style.marker, label=NOT_SHOWN),
    ]
    if any(not effect.interval.known for effect in effects):
        handles.append(
            Line2D(
                [],
                [],
                color=FAINT,
                marker=style.marker,
                linestyle="",
                markerfacecolor="white",
                label="no interval",
            )
        )
    footer = (
        f"{len(ends)} cells of {seeds_text(map(len, ends.values()))}, {run.budget} each. −: main effects, averaged "
        f"over the other factors; ×: interactions. Intervals at {100 * effects[0].interval.confidence:.4g}\u00a0%: all "
        "hold together at 95\u00a0%."
    )
    surround(drawn, f"Main effects and interactions of {base}", footer, handles)
    return save(drawn, folder, "contrasts")
