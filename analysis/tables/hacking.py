"""Peaks, proxy gaps and distances from the base model, as a frame of numbers and as a reader sees them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import pandas as pd

from analysis import text
from analysis.hacking import Course
from analysis.records import Records
from analysis.tables.text_table import TextTable, tidy

LEAST_NATS = 10.0
"""Nearer to the base model than this, a gain for each nat is noise over nearly nothing."""


def hacking_frame(found: Sequence[Course]) -> pd.DataFrame:
    """One row a method, tidy."""
    return tidy(
        {
            "method": entry.method,
            "median_peak_iteration": median(entry.peaks),
            "seeds_that_peaked_before_the_end": _early(entry),
            **{name: getattr(entry, name) for name in ("peak", "end", "lost", "gap", "kl", "gain")},
            "seeds": len(entry.peaks),
        }
        for entry in found
    )


def _early(entry: Course) -> int:
    return sum(peak < end for peak, end in zip(entry.peaks, entry.ends, strict=True))


def hacking_table(run: Records, found: Sequence[Course]) -> TextTable:
    """When the headline peaks, what is lost after it, the proxy gap at the end, and how far each method moved."""
    far = any(entry.kl.n for entry in found)
    rows = []
    for entry in found:
        peaks = f"{median(entry.peaks):g}\n{min(entry.peaks)} to {max(entry.peaks)}"
        near = not entry.kl.mean >= LEAST_NATS
        distance = (
            text.cell(entry.kl, text.number),
            text.NONE if near else text.signed(100 * entry.gain.mean / entry.kl.mean),
        )
        rows.append(
            (
                entry.method,
                peaks if len(entry.peaks) > 1 else str(entry.peaks[0]),
                f"{_early(entry)} of {len(entry.peaks)}",
                text.change(entry.peak, entry.end),
                text.cell(entry.lost, text.number),
                text.cell(entry.gap),
                *(distance if far else ()),
            )
        )
    columns = ("method", "iteration of the peak", "seeds past it", "peak → end", "lost after it")
    columns += ("proxy gap at the end", *(("KL to base at the end", "gain per 100 nats") if far else ()))
    reward = text.reward_name(run.suite.headline)
    note = (
        f"Peak of {reward} on {text.SPLIT_NAMES[run.split]}: median and range over seeds. The best of several noisy "
        "evaluations lies above the truth, so some loss after it is expected of every method. Proxy gap: gain on the "
        f"rewards trained on (training prompts) less gain on {reward} (held-out prompts), each in standard deviations "
        "of the base model's videos. Intervals: Student's 95 %, over seeds."
    )
    if far:
        note += " KL: nats per video, over the whole path, under the memoryless SDE."
    return TextTable("Peaks, proxy gaps and distances", columns, tuple(rows), note)
