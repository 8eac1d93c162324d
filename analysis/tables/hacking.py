"""Peaks, proxy gaps and distances from the base model, as a frame of numbers and as a reader sees them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import pandas as pd

from analysis import text
from analysis.hacking import Course
from analysis.records import Records
from analysis.statistics import Interval
from analysis.tables.text_table import TextTable

LEAST_NATS = 10.0
"""Nearer to the base model than this, a gain for each nat is noise over nearly nothing."""


def hacking_frame(found: Sequence[Course]) -> pd.DataFrame:
    """One row a method, tidy."""
    rows = []
    for entry in found:
        row: dict[str, object] = {
            "method": entry.method,
            "median_peak_iteration": statistics.median(entry.peaks),
            "seeds_that_peaked_before_the_end": _early(entry),
            "peak": entry.peak,
            "end": entry.end,
        }
        for name in ("lost", "gap", "kl", "gain"):
            value = {"lost": entry.lost, "gap": entry.gap, "kl": entry.kl, "gain": entry.gain}[name]
            row |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        rows.append({**row, "seeds": len(entry.peaks)})
    return pd.DataFrame(rows)


def _early(entry: Course) -> int:
    return sum(peak < end for peak, end in zip(entry.peaks, entry.ends, strict=True))


def hacking_table(run: Records, found: Sequence[Course]) -> TextTable:
    """When the headline peaks, what is lost after, the proxy gap at the end, and how far each method walked."""
    far = any(entry.kl.n for entry in found)
    rows = []
    for entry in found:
        peaks = f"{statistics.median(entry.peaks):g}\n{min(entry.peaks)} to {max(entry.peaks)}"
        cells = [
            peaks if len(entry.peaks) > 1 else str(entry.peaks[0]),
            f"{_early(entry)} of {len(entry.peaks)}",
            f"{text.number(entry.peak)} → {text.number(entry.end)}",
            _with_interval(entry.lost, plus=False),
            _with_interval(entry.gap),
        ]
        if far:
            cells += [_with_interval(entry.kl, plus=False), _per_nats(entry)]
        rows.append((entry.method, *cells))
    reward = text.reward_name(run.suite.headline)
    columns = [
        "method",
        "iteration of the peak",
        "seeds past it",
        "peak → end",
        "lost after it",
        "proxy gap at the end",
    ]
    columns += ["KL to base at the end", "gain per 100 nats"] if far else []
    split = text.SPLIT_NAMES[run.splits[0]] if run.splits else ""
    note = (
        f"Peak of {reward} on {split}: median and range over seeds. The best of several noisy evaluations lies above "
        "the truth, so some loss after it is expected of every method. Proxy gap: gain on the rewards trained on "
        f"(training prompts) less gain on {reward} (held-out prompts), each in standard deviations of the base model's "
        "videos. Intervals: Student's 95 %, over seeds."
    )
    if far:
        note += " KL: nats per video, over the whole path, under the memoryless SDE."
    return TextTable("Peaks, proxy gaps and distances", tuple(columns), tuple(rows), note)


def _with_interval(value: Interval, plus: bool = True) -> str:
    show = text.signed if plus else text.number
    if not value.n or pd.isna(value.mean):
        return text.NONE
    return f"{show(value.mean)}\n{show(value.low)} to {show(value.high)}" if value.known else show(value.mean)


def _per_nats(entry: Course) -> str:
    if not entry.kl.n or not entry.kl.mean >= LEAST_NATS:
        return text.NONE
    return text.signed(100 * entry.gain.mean / entry.kl.mean)
