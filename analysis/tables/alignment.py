"""Final rewards in several summaries and methods in pairs, as frames of numbers and as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import text
from analysis.alignment import Alignment, Pair
from analysis.records import Records
from analysis.statistics import Estimate
from analysis.tables.final import format_table
from analysis.tables.text_table import TextTable, write_table

SHOWN_PAIRS = 10
"""With more pairs than this the page shows those with the best method and folds the rest."""


def alignment_frame(found: Alignment, run: Records) -> pd.DataFrame:
    """One row per (split, method, reward), tidy."""
    rows = [
        {
            "split": entry.split,
            "method": entry.method,
            "reward": entry.reward,
            "role": run.suite.role(entry.reward),
            "base": entry.base,
            "final": entry.final,
            "gain": entry.mean.mean,
            "low": entry.mean.low,
            "high": entry.mean.high,
            **_columns("iqm", entry.robust),
            "any_prompts_low": entry.any_prompts.low,
            "any_prompts_high": entry.any_prompts.high,
            "prompts_won": entry.prompts_won.mean,
            "prompts_won_low": entry.prompts_won.low,
            "prompts_won_high": entry.prompts_won.high,
            "seeds": entry.mean.n,
            "bootstrap_trusted": entry.robust.trusted,
        }
        for entry in found.endings
    ]
    return pd.DataFrame(rows)


def _columns(name: str, value: Estimate) -> dict[str, float]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def pairs_frame(found: Alignment) -> pd.DataFrame:
    """One row per (split, reward, pair), tidy."""
    rows = [
        {
            "split": entry.split,
            "reward": entry.reward,
            "first": entry.difference.first,
            "second": entry.difference.second,
            "difference": entry.difference.interval.mean,
            "low": entry.difference.interval.low,
            "high": entry.difference.interval.high,
            "confidence": entry.difference.interval.confidence,
            "adjusted_p": entry.adjusted,
            **_columns("improvement", entry.improvement),
            "prompts_won": entry.prompts_won.mean,
            "prompts_won_low": entry.prompts_won.low,
            "prompts_won_high": entry.prompts_won.high,
            "any_prompts_low": entry.any_prompts.low if entry.any_prompts else math.nan,
            "any_prompts_high": entry.any_prompts.high if entry.any_prompts else math.nan,
            "seeds_first": entry.difference.seeds[0],
            "seeds_second": entry.difference.seeds[1],
            "bootstrap_trusted": entry.improvement.trusted,
        }
        for entry in found.pairs
    ]
    return pd.DataFrame(rows)


def _shares(mean: float, low: float, high: float, trusted: bool = True) -> str:
    """`75 % (58 to 92 %)`."""
    if pd.isna(mean):
        return text.NONE
    mark = "" if trusted else " †"
    alike = pd.isna(low) or not high > low
    shown = f"{text.percent(mean)}{mark}"
    return shown if alike else f"{shown}\n{100 * low:.0f} to {text.percent(high)}"


def _bounds(value: Estimate) -> str:
    if not value.known:
        return text.signed(value.value)
    mark = "" if value.trusted else " †"
    return f"{text.signed(value.value)}{mark}\n{text.signed(value.low)} to {text.signed(value.high)}"


def summaries_table(found: Alignment, run: Records, split: str) -> TextTable:
    """The headline reward of one split, each method's gain in each of its summaries."""
    entries = [e for e in found.endings if e.split == split and e.reward == run.suite.headline]
    rows = tuple(
        (
            entry.method,
            f"{text.signed(entry.mean.mean)}\n{text.interval(entry.mean)}",
            _bounds(entry.robust),
            _bounds(entry.any_prompts),
            _shares(entry.prompts_won.mean, entry.prompts_won.low, entry.prompts_won.high),
        )
        for entry in sorted(entries, key=lambda entry: -entry.final)
    )
    note = (
        "Gains over the base model. Mean: over videos, Student's 95 % interval over seeds. Interquartile mean: the "
        "middle half of all prompts and seeds, bootstrap over seeds. With other prompts: the mean's interval where "
        "prompts are drawn anew as well. Prompts that gained: share over seeds, equal ones count half."
    )
    doubts = dict.fromkeys(entry.robust.why for entry in entries if not entry.robust.trusted)
    columns = ("method", "mean gain", "interquartile mean", "with other prompts", "prompts that gained")
    title = f"{text.reward_name(run.suite.headline)} on {text.SPLIT_NAMES[split]}, in several summaries"
    return TextTable(_capital(title), columns, rows, _doubted(note, doubts))


def wins_table(found: Alignment, run: Records, split: str) -> TextTable:
    """Share of prompts on which each method is above the base model, by reward."""
    entries = {(e.method, e.reward): e.prompts_won for e in found.endings if e.split == split}
    methods = dict.fromkeys(method for method, _ in entries)
    rows = []
    for method in methods:
        cells = [entries.get((method, reward)) for reward in run.rewards]
        rows.append(
            (
                method,
                *(text.NONE if cell is None else _shares(cell.mean, cell.low, cell.high) for cell in cells),
            )
        )
    note = "Share of prompts whose mean is above the base model's, with its 95 % interval over seeds. * trained on."
    columns = ("method", *(starred(run, reward) for reward in run.rewards))
    return TextTable(f"Prompts that gained, {text.SPLIT_NAMES[split]}", columns, tuple(rows), note)


def starred(run: Records, reward: str) -> str:
    """A reward's name, with a star if it was trained on."""
    return text.reward_name(reward) + ("*" if run.suite.role(reward) == "training" else "")


def pairs_table(found: Alignment, run: Records, split: str, rewards: Sequence[str]) -> TextTable:
    """Pairs of methods on some rewards of one split: by how much, how surely, how often one seed beats another."""
    entries = [e for e in found.pairs if e.split == split and e.reward in rewards]
    entries.sort(key=lambda entry: list(rewards).index(entry.reward))
    several = len(rewards) > 1
    rows = tuple(
        (
            *((starred(run, entry.reward),) if several else ()),
            f"{entry.difference.first} − {entry.difference.second}",
            f"{text.signed(entry.difference.interval.mean)}\n{text.interval(entry.difference.interval)}",
            text.NONE if pd.isna(entry.adjusted) else _p(entry.adjusted),
            _shares(
                entry.improvement.value,
                entry.improvement.low,
                entry.improvement.high,
                entry.improvement.trusted,
            ),
            _shares(entry.prompts_won.mean, entry.prompts_won.low, entry.prompts_won.high),
            _verdict(entry),
        )
        for entry in entries
    )
    columns = (
        *(("reward",) if several else ()),
        "pair",
        "difference",
        "p, adjusted",
        "chance that a seed is ahead",
        "prompts ahead",
        "",
    )
    names = text.listed([text.reward_name(name) for name in rewards]) if not several else "all other rewards"
    title = f"Methods in pairs: {names} on {text.SPLIT_NAMES[split]}"
    return TextTable(title, columns, rows, _pairs_note(entries, several))


def _p(value: float) -> str:
    if value < 0.001:
        return "< 0.001"
    return f"{value:.4f}" if f"{value:.3f}" == "0.050" else f"{value:.3f}"


def _verdict(entry: Pair) -> str:
    if not entry.difference.interval.known:
        return "cannot be said (one seed)"
    return "told apart" if entry.distinct else "not told apart"


def _pairs_note(entries: Sequence[Pair], several: bool) -> str:
    if not any(entry.difference.interval.known for entry in entries):
        return "No interval: one seed of a method has no spread."
    if several:
        note = (
            "Difference: Welch's 95 % interval over seeds, each for itself. p: Welch's test, adjusted for all "
            f"{text.count(len(entries), 'comparison')} of this table (Holm); told apart: below 0.05."
        )
    elif len(entries) > 1:
        note = (
            f"Difference: Welch's 95 % interval over seeds, widened so that all {len(entries)} pairs hold together "
            "(Bonferroni); p likewise; told apart: zero lies outside."
        )
    else:
        note = "Difference: Welch's 95 % interval over seeds; told apart: zero lies outside."
    note += (
        " Chance that a seed of the first ends above one of the second: bootstrap over seeds. Prompts ahead: share on "
        "which the first is above the second, over the seeds that both have."
    )
    return _doubted(note, dict.fromkeys(e.improvement.why for e in entries if not e.improvement.trusted))


def _doubted(note: str, doubts: dict[str, None]) -> str:
    return " ".join([note, *(f"† {why}" for why in doubts)])


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def folded(table: TextTable) -> list[TextTable]:
    """A table of pairs whole, or where it is long those with the best method and then all others."""
    if len(table.rows) <= SHOWN_PAIRS:
        return [table]
    best = table.rows[0][0].split(" − ")[0]
    first = tuple(row for row in table.rows if row[0].split(" − ")[0] == best)
    rest = tuple(row for row in table.rows if row not in first)
    return [
        TextTable(table.title, table.columns, first, table.note),
        TextTable(
            f"All other pairs of {table.title.removeprefix('Methods in pairs: ')}", table.columns, rest
        ),
    ]


def write_alignment(run: Records, found: Alignment, finals: pd.DataFrame, folder: Path) -> list[TextTable]:
    """Write `final`, `alignment` and `pairs` as CSV and Markdown; return the tables that have rows.

    They are, for each split: summaries of the headline, prompts that gained, pairs on the headline, other pairs.
    """
    whole = [format_table(finals, split) for split in run.splits]
    others = [reward for reward in run.rewards if reward != run.suite.headline]
    endings, pairs = [], []
    for split in run.splits:
        endings += [summaries_table(found, run, split), wins_table(found, run, split)]
        pairs += [
            pairs_table(found, run, split, [run.suite.headline]),
            pairs_table(found, run, split, others),
        ]
    write_table(folder, "final", finals, whole)
    for name, frame, tables in (
        ("alignment", alignment_frame(found, run), endings),
        ("pairs", pairs_frame(found), pairs),
    ):
        if len(frame):
            write_table(folder, name, frame, tables)
    return [table for table in (*endings, *pairs) if table.rows]
