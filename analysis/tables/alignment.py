"""Final rewards in several summaries and methods in pairs, as frames of numbers and as a reader sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis import text
from analysis.alignment import FEWEST_FOR_BOOTSTRAP, Alignment
from analysis.records import Records
from analysis.tables.final import format_table
from analysis.tables.text_table import TextTable, tidy, write_table

SHOWN_PAIRS = 10
"""With more pairs than this the page shows those with the best method and folds the rest."""


def alignment_frame(found: Alignment, run: Records) -> pd.DataFrame:
    """One row per (split, method, reward), tidy."""
    return tidy(
        {"split": entry.split, "method": entry.method, "reward": entry.reward}
        | {"role": run.suite.role(entry.reward), "base": entry.base, "final": entry.final}
        | {"gain": entry.mean, "iqm": entry.robust, "any_prompts_low": entry.any_prompts.low}
        | {"any_prompts_high": entry.any_prompts.high, "prompts_won": entry.prompts_won}
        | {"seeds": entry.mean.n}
        for entry in found.endings
    )


def pairs_frame(found: Alignment) -> pd.DataFrame:
    """One row per (split, reward, pair), tidy."""
    return tidy(
        {"split": entry.split, "reward": entry.reward, "first": difference.first, "second": difference.second}
        | {"difference": difference.interval, "p": difference.p, "improvement": entry.improvement}
        | {"prompts_won": entry.prompts_won, "any_prompts_low": entry.any_prompts.low}
        | {"any_prompts_high": entry.any_prompts.high}
        | dict(zip(("seeds_first", "seeds_second"), difference.seeds, strict=True))
        for entry in found.pairs
        for difference in [entry.difference]
    )


def summaries_table(found: Alignment, run: Records, split: str) -> TextTable:
    """The headline reward of one split, each method's gain in each of its summaries."""
    entries = [e for e in found.endings if e.split == split and e.reward == run.suite.headline]
    rows = tuple(
        (
            e.method,
            text.cell(e.mean),
            text.cell(e.robust),
            text.cell(e.any_prompts),
            text.cell(e.prompts_won, text.percent),
        )
        for e in sorted(entries, key=lambda entry: -entry.final)
    )
    note = (
        "Gains over the base model. Mean: over videos, Student's 95 % interval over seeds. Interquartile mean: the "
        f"middle half of all prompts and seeds, with a bootstrap from {FEWEST_FOR_BOOTSTRAP} seeds on. With other "
        "prompts: the mean where prompts, too, are a sample. Prompts that gained: share over seeds, equal ones count "
        "half."
    )
    columns = ("method", "mean gain", "interquartile mean", "with other prompts", "prompts that gained")
    title = f"{text.reward_name(run.suite.headline)} on {text.SPLIT_NAMES[split]}, in several summaries"
    return TextTable(title[:1].upper() + title[1:], columns, rows, note)


def wins_table(found: Alignment, run: Records, split: str) -> TextTable:
    """Share of prompts on which each method is above the base model, by reward."""
    entries = {
        (e.method, e.reward): text.cell(e.prompts_won, text.percent)
        for e in found.endings
        if e.split == split
    }
    rows = tuple(
        (method, *(entries.get((method, reward), text.NONE) for reward in run.rewards))
        for method in dict.fromkeys(method for method, _ in entries)
    )
    note = "Share of prompts whose mean is above the base model's, with its 95 % interval over seeds. * trained on."
    columns = ("method", *(text.starred(reward, run.suite.role(reward)) for reward in run.rewards))
    return TextTable(f"Prompts that gained, {text.SPLIT_NAMES[split]}", columns, rows, note)


def pairs_table(found: Alignment, run: Records, split: str, reward: str) -> TextTable:
    """Pairs of methods on one reward of one split: by how much, how surely, how often one seed beats another."""
    entries = [e for e in found.pairs if e.split == split and e.reward == reward]
    rows = tuple(
        (
            f"{entry.difference.first} − {entry.difference.second}",
            text.cell(entry.difference.interval),
            text.p_value(entry.difference.p),
            text.percent(entry.improvement),
            text.cell(entry.prompts_won, text.percent),
            {True: "yes", False: "not shown"}[entry.difference.distinct]
            if entry.difference.interval.known
            else "no interval",
        )
        for entry in entries
    )
    columns = ("pair", "difference", "p", "chance that a seed is ahead", "prompts ahead", "beyond chance")
    title = f"Methods in pairs: {text.starred(reward, run.suite.role(reward))} on {text.SPLIT_NAMES[split]}"
    note = (
        "Difference and p: Games and Howell's 95 % interval and test over seeds, which hold together for all "
        f"{text.count(len(entries), 'pair')} of the table. Chance that a seed of the first ends above one of the "
        "second: share of pairs of seeds. Prompts ahead: share on which the first is above the second, over the seeds "
        "that both have."
    )
    return TextTable(title, columns, rows, note)


def folded(table: TextTable) -> list[TextTable]:
    """A table of pairs whole, or where it is long those with the best method and then all others."""
    if len(table.rows) <= SHOWN_PAIRS:
        return [table]
    best = table.rows[0][0].split(" − ")[0]
    first = tuple(row for row in table.rows if row[0].startswith(f"{best} − "))
    rest = tuple(row for row in table.rows if row not in first)
    others = table.title.replace("Methods in pairs", "All other pairs")
    return [replace(table, rows=first), TextTable(others, table.columns, rest)]


def write_alignment(run: Records, found: Alignment, finals: pd.DataFrame, folder: Path) -> list[TextTable]:
    """Write `final`, `alignment` and `pairs` as CSV, Markdown and LaTeX; return the tables that have rows.

    They are, for each split: summaries of the headline, prompts that gained, and pairs on each reward.
    """
    endings = [make(found, run, split) for split in run.splits for make in (summaries_table, wins_table)]
    pairs = [pairs_table(found, run, split, reward) for split in run.splits for reward in run.rewards]
    write_table(folder, "final", finals, [format_table(finals, split) for split in run.splits])
    shown = write_table(folder, "alignment", alignment_frame(found, run), endings)
    return shown + write_table(folder, "pairs", pairs_frame(found), pairs)
