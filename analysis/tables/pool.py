"""Pooled effects, as a frame of numbers and as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from analysis import text
from analysis.pool import SPEED, PooledEffects
from analysis.statistics import Interval
from analysis.tables.text_table import TextTable


def pool_frame(found: Sequence[PooledEffects]) -> pd.DataFrame:
    """One row per (quantity, run), and one `pooled` where there is one; speed-ups as ratios."""
    rows = []
    for entry in found:
        scale: Callable[[float], float] = math.exp if entry.quantity == SPEED else float
        entries = [(effect.run, effect.interval, effect.error, math.nan) for effect in entry.effects]
        if entry.result:
            entries.append(("pooled", entry.result.mean, math.nan, entry.result.between))
        rows += [
            {
                "quantity": entry.quantity,
                "run": run,
                "estimate": scale(interval.mean),
                "low": scale(interval.low),
                "high": scale(interval.high),
                "error": error,
                "between_runs": between,
                "n": interval.n,
            }
            for run, interval, error, between in entries
        ]
    return pd.DataFrame(rows)


def pool_table(entry: PooledEffects, method: str, baseline: str) -> TextTable:
    """One quantity as a reader sees it: a row a run, the pooled mean last."""
    ratio = entry.quantity == SPEED

    def cell(interval: Interval) -> str:
        if ratio:
            bounds = text.bounds(math.exp(interval.low), math.exp(interval.high))
            return f"{text.ratio(math.exp(interval.mean))} ({bounds})"
        return f"{text.signed(interval.mean)} ({text.interval(interval)})"

    rows = [(effect.run, str(effect.interval.n), cell(effect.interval)) for effect in entry.effects]
    note = "Each run: 95 % interval over its seeds."
    if entry.result:
        rows.append(("pooled", text.count(len(entry.effects), "run"), cell(entry.result.mean)))
        note += (
            " Pooled: random effects (Paule and Mandel), with Hartung and Knapp's 95 % interval over runs. The truth "
            f"differs between runs with a standard deviation of {text.number(entry.result.between)}"
            f"{' of the logarithm' if ratio else ''}; {text.percent(entry.result.heterogeneity)} of the variance "
            "between estimates is more than their own error."
        )
    else:
        note += f" Not pooled: {entry.why_not}. Leaving runs out would flatter one side."
    scale = "whole-curve speed-up" if ratio else "difference of final rewards (base s.d.)"
    title = f"{method} against {baseline}: {scale}"
    return TextTable(title, ("run", "seeds", "estimate"), tuple(rows), note)
