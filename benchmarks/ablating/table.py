"""What an ablation found: each variant's difference to what it is compared with, as a table and a figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis import text
from analysis.curves import final_values
from analysis.guidance import diagnostic, gap_frame
from analysis.records import Records, load_run
from analysis.statistics import Interval, welch_difference
from analysis.style import FAINT, INK, figure, looks, save, surround, tidy
from benchmarks.ablating.variants import Arm, described
from methods.method import Method

CONFIDENCE = 0.95
#: Whether an interval excludes zero, or there is none.
BEYOND, NOT_SHOWN, UNKNOWN = "beyond chance", "not shown", "cannot be said"


@dataclass(frozen=True)
class Row:
    """A variant, or the base.

    Attributes:
        factor, variant, about: which.
        differs: its fields that differ from the base.
        against: what it is compared with, as a reader knows it; empty for the base.
        finals: the headline reward on held-out prompts at the end, one a seed.
        difference: of the means, with its interval; None for the base.
        guided, unguided: headline reward of rollouts with and without guidance, before training and at the end.
        kl: to the base model at the end, in nats a video.
        iterations: that the budget paid.
    """

    factor: str
    variant: str
    about: str
    differs: str
    against: str
    finals: NDArray[np.float64]
    difference: Interval | None
    guided: tuple[float, float]
    unguided: tuple[float, float]
    kl: float
    iterations: float

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.factor}: {self.variant}" if self.factor else self.variant

    @property
    def verdict(self) -> str:
        """Whether it differs from what it is compared with beyond chance."""
        if self.difference is None:
            return ""
        if not self.difference.known:
            return UNKNOWN
        return BEYOND if self.difference.excludes_zero else NOT_SHOWN


def compare(folder: Path, base: Method, arms: Sequence[Arm]) -> tuple[Records, list[Row]]:
    """The rows of an ablation, the base first, read from a run's records.

    With m variants each interval is drawn at 1 - 0.05 / m (Bonferroni), so that all of them hold together with 95 %
    confidence. Seeds are what intervals are over (Welch's).

    Raises:
        RecordError: the folder cannot be analysed.
    """
    run = load_run(folder)
    headline = _headline(run)
    finals = headline_ends(run, (base.name, *(arm.name for arm in arms)))
    level = 1 - (1 - CONFIDENCE) / max(len(arms), 1)
    names = {base.name: "base", **{arm.name: f"{arm.factor}-{arm.variant}" for arm in arms}}
    found = _Diagnostics.of(run, headline)
    rows = [Row("", base.name, "", "", "", finals[base.name], None, *found.of_method(base.name))]
    for arm in arms:
        difference = welch_difference(finals[arm.name], finals[arm.against], level)
        rows.append(
            Row(
                arm.factor,
                arm.variant,
                arm.about,
                described(base, arm.method),
                names[arm.against],
                finals[arm.name],
                difference,
                *found.of_method(arm.name),
            )
        )
    return run, rows


def _headline(run: Records) -> pd.DataFrame:
    """`final_values` of the headline reward on held-out prompts."""
    values = final_values(run)
    return values[(values["reward"] == run.suite.headline) & (values["split"] == run.splits[0])]


def headline_ends(run: Records, methods: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """The headline reward on held-out prompts at the end: method -> one a seed that finished."""
    headline = _headline(run)
    return {
        name: headline.loc[headline["method"] == name, "final"].to_numpy(dtype=np.float64) for name in methods
    }


@dataclass(frozen=True)
class _Diagnostics:
    """Diagnostics of all methods, one row a seed and evaluation."""

    rollouts: pd.DataFrame
    kl: pd.DataFrame
    iterations: Mapping[str, float]

    @classmethod
    def of(cls, run: Records, headline: pd.DataFrame) -> _Diagnostics:
        frame = gap_frame(run)
        kl = diagnostic(run, "diagnostic/kl", "name")
        iterations = headline.groupby("method")["iteration"].mean().to_dict()
        return cls(
            frame[frame["reward"] == run.suite.headline],
            kl,
            {str(k): float(v) for k, v in iterations.items()},
        )

    def of_method(self, method: str) -> tuple[tuple[float, float], tuple[float, float], float, float]:
        """Rollouts guided and unguided, each first and last; KL at the end; iterations. NaN for what is not there."""
        own = self.rollouts[self.rollouts["method"] == method]
        kl = _ends(self.kl[self.kl["method"] == method], "value")[1]
        return _ends(own, "guided"), _ends(own, "unguided"), kl, self.iterations.get(method, math.nan)


def _ends(frame: pd.DataFrame, column: str) -> tuple[float, float]:
    """Mean over seeds of the first and of the last value."""
    if not len(frame):
        return math.nan, math.nan
    seeds = frame.sort_values("iteration").groupby("seed")[column]
    return float(seeds.first().mean()), float(seeds.last().mean())


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """All numbers, one row a variant."""
    return pd.DataFrame(
        [
            {
                "factor": row.factor,
                "variant": row.variant,
                "differs": row.differs,
                "compared_with": row.against,
                "seeds": len(row.finals),
                "final": _mean(row.finals),
                "difference": row.difference.mean if row.difference else math.nan,
                "low": row.difference.low if row.difference else math.nan,
                "high": row.difference.high if row.difference else math.nan,
                "confidence": row.difference.confidence if row.difference else math.nan,
                "verdict": row.verdict,
                "guided_before": row.guided[0],
                "guided_after": row.guided[1],
                "unguided_before": row.unguided[0],
                "unguided_after": row.unguided[1],
                "kl_to_base": row.kl,
                "iterations": row.iterations,
            }
            for row in rows
        ]
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


#: Columns of the table as people read it.
COLUMNS = (
    "variant",
    "differs from the base in",
    "final",
    "difference",
    "interval",
    "",
    "rollouts guided",
    "unguided",
    "KL to base",
)


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table as strings, in the order of `COLUMNS`."""
    return [
        (
            row.label,
            row.differs or text.NONE,
            text.number(_mean(row.finals)),
            text.NONE if row.difference is None else text.signed(row.difference.mean),
            text.NONE if row.difference is None else text.interval(row.difference),
            _verdict(row),
            _change(row.guided),
            _change(row.unguided),
            text.number(row.kl),
        )
        for row in rows
    ]


def _verdict(row: Row) -> str:
    return row.verdict if row.against in ("", "base") else f"{row.verdict} (to {row.against})"


def _change(values: tuple[float, float]) -> str:
    return text.NONE if math.isnan(values[0]) else f"{text.number(values[0])} → {text.number(values[1])}"


def seeds_text(counts: Iterable[int]) -> str:
    """ "3 seeds", or "2 to 3 seeds" where they differ."""
    seeds = sorted(set(counts))
    several = f"{seeds[0]} to " if len(seeds) > 1 else ""
    return several + text.count(seeds[-1], "seed")


def note(run: Records, rows: Sequence[Row]) -> str:
    """What the numbers are."""
    count = len(rows) - 1
    each = 1 - (1 - CONFIDENCE) / max(count, 1)
    told = seeds_text(len(row.finals) for row in rows)
    return (
        f"Final: {text.reward_name(run.suite.headline)} on held-out prompts, mean of {told} at {run.budget}. "
        f"Difference: to the base where no other is named; Welch's intervals, each at {100 * each:.4g} % so that all "
        f"{count} hold together with 95 % confidence; {BEYOND}: zero lies outside. Rollouts: the same reward of the "
        "method's own stochastic rollouts with full guidance and with none, before training and at the end: what the "
        "policy kept of the guidance is what it gains without it. KL in nats a video."
    )


def to_markdown(run: Records, rows: Sequence[Row]) -> str:
    """The table as Markdown, each factor's question above its variants."""
    lines = [
        f"## Ablation of {rows[0].variant}",
        "",
        markdown_row(COLUMNS),
        f"|{'---|' * len(COLUMNS)}",
    ]
    asked = ""
    for row, strings in zip(rows, cells(rows), strict=True):
        if row.about and row.about != asked:
            lines.append(f"| *{_escaped(row.about)}* |{' |' * (len(COLUMNS) - 1)}")
            asked = row.about
        lines.append(markdown_row(strings))
    return "\n".join([*lines, "", note(run, rows), ""])


def markdown_row(strings: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(_escaped, strings))} |"


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def write_table(run: Records, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes `tables/ablation.csv`, `.md`, and `figures/ablation.png`, `.svg`; returns the files."""
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    to_frame(rows).to_csv(tables / "ablation.csv", index=False, float_format="%.6g")
    (tables / "ablation.md").write_text(to_markdown(run, rows), encoding="utf-8")
    written = [tables / "ablation.csv", tables / "ablation.md"]
    if any(row.difference is not None and not math.isnan(row.difference.mean) for row in rows):
        written += _figure(run, rows, folder / "figures")
    return written


def _figure(run: Records, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Differences with their intervals, one line a variant."""
    compared = [row for row in rows if row.difference is not None]
    drawn, style = figure(7.4, 1.5 + 0.27 * len(compared)), looks([rows[0].variant])[rows[0].variant]
    axes = drawn.subplots()
    tidy(axes)
    axes.axvline(0, color=FAINT, linewidth=1)
    for place, row in enumerate(compared):
        assert row.difference is not None
        colour = style.colour if row.difference.excludes_zero else FAINT
        if row.difference.known:
            axes.plot([row.difference.low, row.difference.high], [place, place], color=colour, linewidth=1.8)
        axes.plot([row.difference.mean], [place], color=colour, marker=style.marker, markersize=5.5)
    labels = [row.label + ("" if row.against == "base" else f" (to {row.against})") for row in compared]
    axes.set_yticks(range(len(compared)), labels)
    axes.set_ylim(len(compared) - 0.4, -0.6)
    axes.set_xlabel(f"difference of {text.reward_name(run.suite.headline)}, held-out prompts")
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, label=BEYOND),
        Line2D([], [], color=FAINT, marker=style.marker, label=NOT_SHOWN),
        Line2D([], [], color=INK, linestyle="", label=f"base {_mean(rows[0].finals):.3f}"),
    ]
    confidence = f"{100 * compared[0].difference.confidence:.4g} %" if compared[0].difference else ""
    seeds = seeds_text(len(row.finals) for row in rows)
    footer = f"{seeds}, {run.budget} each. Intervals at {confidence}: all hold together at 95 %."
    surround(drawn, f"What each change does to {rows[0].variant}", footer, handles)
    return save(drawn, folder, "ablation")
