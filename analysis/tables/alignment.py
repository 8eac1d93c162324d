"""Final rewards in several summaries and methods in pairs, as frames of numbers and as a reader sees them."""

from __future__ import annotations

import pandas as pd

from analysis import text
from analysis.alignment import FEWEST_FOR_BOOTSTRAP, Alignment
from analysis.records import Records
from analysis.statistics import Difference
from analysis.tables.text_table import TextTable, tidy


def alignment_frame(found: Alignment, run: Records) -> pd.DataFrame:
    """One row per (split, method, reward), tidy."""
    return tidy(
        vars(entry) | {"role": run.suite.role(entry.reward), "seeds": entry.mean.n} for entry in found.endings
    ).rename(columns=lambda name: name.replace("mean", "gain").replace("robust", "iqm"))


def pairs_frame(found: Alignment) -> pd.DataFrame:
    """One row per (split, reward, pair), tidy."""
    return tidy(
        {"split": entry.split, "reward": entry.reward, "first": difference.first, "second": difference.second}
        | {"difference": difference.interval, "p": difference.p, "improvement": entry.improvement}
        | {"prompts_won": entry.prompts_won}
        | dict(zip(("seeds_first", "seeds_second"), difference.seeds, strict=True))
        for entry in found.pairs
        for difference in [entry.difference]
    )


def summaries_table(found: Alignment, run: Records, split: str) -> TextTable:
    """The headline reward of one split, each method's gain in each of its summaries."""
    entries = [e for e in found.endings if e.split == split and e.reward == run.suite.headline]
    columns = {
        "method": lambda entry: entry.method,
        "mean gain": lambda entry: text.cell(entry.mean),
        "interquartile mean": lambda entry: text.cell(entry.robust),
        "prompts that gained": lambda entry: text.cell(entry.prompts_won, text.percent),
    }
    note = (
        "Gains over the base model. Mean: over videos, Student's 95 % interval over seeds. Interquartile mean: the "
        f"middle half of all prompts and seeds, with a bootstrap from {FEWEST_FOR_BOOTSTRAP} seeds on. Prompts that "
        "gained: share over seeds, equal ones count half."
    )
    reward = text.reward_name(run.suite.headline)
    title = f"{reward[:1].upper()}{reward[1:]} on {text.SPLIT_NAMES[split]}, in several summaries"
    return TextTable.of(title, sorted(entries, key=lambda entry: -entry.final), columns, note)


def pairs_table(found: Alignment, run: Records, split: str, reward: str) -> TextTable:
    """Pairs of methods on one reward of one split: by how much, how surely, how often one seed beats another."""
    entries = [entry for entry in found.pairs if entry.split == split and entry.reward == reward]
    columns = {
        "pair": lambda entry: f"{entry.difference.first} − {entry.difference.second}",
        "difference": lambda entry: text.cell(entry.difference.interval),
        "p": lambda entry: text.p_value(entry.difference.p),
        "chance that a seed is ahead": lambda entry: text.percent(entry.improvement),
        "prompts ahead": lambda entry: text.cell(entry.prompts_won, text.percent),
        "beyond chance": lambda entry: _verdict(entry.difference),
    }
    title = f"Methods in pairs: {text.starred(reward, run.suite.role(reward))} on {text.SPLIT_NAMES[split]}"
    note = (
        "Difference and p: Games and Howell's 95 % interval and test over seeds, which hold together for all "
        f"{text.count(len(entries), 'pair')} of the table. Chance that a seed of the first ends above one of the "
        "second: share of pairs of seeds. Prompts ahead: share on which the first is above the second, over the seeds "
        "that both have."
    )
    return TextTable.of(title, entries, columns, note)


def _verdict(difference: Difference) -> str:
    if not difference.interval.known:
        return "no interval"
    return "yes" if difference.distinct else "not shown"
