"""The question a run was made for, and the answer its records give, in plain sentences.

The question: which method ends highest on the suite's headline reward, which none was trained on, for
prompts that none was trained on; by how much over the base model; and can the methods be told apart with
this many seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis import text
from analysis.curves import final_values, run_status
from analysis.records import Run
from analysis.statistics import Difference, Interval, paired_gain, pairwise_differences

FEW_SEEDS = 5
"""Below this many seeds the report says that its intervals are wide and rest on assumed normality."""

NAMED = 4
"""The sentence names up to so many methods and counts more; the table names all."""


@dataclass(frozen=True)
class Standing:
    """A method's final headline reward: base, final mean, and the interval of the gain over its seeds."""

    method: str
    base: float
    final: float
    gain: Interval


@dataclass(frozen=True)
class Answer:
    """`sentence` answers `question`; `limits` says what it rests on; `standings` are best first."""

    question: str
    sentence: str
    limits: tuple[str, ...]
    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...]


def answer(run: Run, finals: pd.DataFrame | None = None) -> Answer:
    """Answer a run's question from its records; works for any part of a run, saying what cannot be said."""
    values = final_values(run) if finals is None else finals
    split = run.splits[0] if run.splits else "held_out"
    headline = values[(values["reward"] == run.suite.headline) & (values["split"] == split)]
    standings = _standings(run, headline)
    groups = {entry.method: _of(headline, entry.method)["final"].to_numpy() for entry in standings}
    differences = tuple(pairwise_differences(groups))
    return Answer(
        question=_question(run, split),
        sentence=_sentence(run, standings, differences, split),
        limits=tuple(_limits(run, standings, split)),
        standings=standings,
        differences=differences,
    )


def _of(values: pd.DataFrame, method: str) -> pd.DataFrame:
    return values[values["method"] == method]


def _standings(run: Run, headline: pd.DataFrame) -> tuple[Standing, ...]:
    entries = []
    for method in run.methods:
        seeds = _of(headline, method)
        if len(seeds):
            gain = paired_gain(seeds["final"].to_numpy(), seeds["base"].to_numpy())
            entries.append(Standing(method, float(seeds["base"].mean()), float(seeds["final"].mean()), gain))
    return tuple(sorted(entries, key=lambda entry: -entry.final))


def _headline(run: Run) -> str:
    return text.reward_name(run.suite.headline)


def _question(run: Run, split: str) -> str:
    trained = run.suite.role(run.suite.headline) == "training"
    kind = "which they were trained on" if trained else "which none was trained on"
    prompts = (
        "prompts that none was trained on" if split == "held_out" else "the prompts they were trained on"
    )
    who = "Which method aligns" if len(run.methods) > 1 else f"How far does {''.join(run.methods)} align"
    best = " best" if len(run.methods) > 1 else ""
    return (
        f"{who} the video model{best} within {run.budget}, judged by {_headline(run)}, {kind}, on {prompts}?"
    )


def _sentence(
    run: Run, standings: tuple[Standing, ...], differences: tuple[Difference, ...], split: str
) -> str:
    if not standings:
        asked = text.listed(run.methods, "or")
        return (
            f"There is no answer yet: no seed of {asked} has finished with an evaluation of {_headline(run)}."
        )
    best = standings[0]
    prompts = text.SPLIT_NAMES[split]
    ended = f"{best.method} ended highest" if len(standings) > 1 else f"{best.method} was trained"
    if len(standings) < len(run.methods):
        compared = f"Of the {len(standings)} methods that finished, {best.method} ended highest"
        ended = compared if len(standings) > 1 else f"Only {best.method} has finished"
    verb = "rose" if best.gain.mean > 0 else "fell" if best.gain.mean < 0 else "stayed"
    moved = f"{_headline(run)} on {prompts} {verb} from {text.number(best.base)} to {text.number(best.final)}"
    return f"{ended}: {moved} ({_gain(best)}){_telling_apart(standings, differences)}."


def _gain(best: Standing) -> str:
    seeds = text.count(best.gain.n, "seed")
    if not best.gain.known:
        return f"{text.signed(best.gain.mean)}, {seeds}, so no interval"
    doubt = "" if best.gain.excludes_zero else ", which includes no change"
    return f"{text.signed(best.gain.mean)}, 95 % interval {text.interval(best.gain)} over {seeds}{doubt}"


def _telling_apart(standings: tuple[Standing, ...], differences: tuple[Difference, ...]) -> str:
    if len(standings) < 2:
        return ""
    best = standings[0].method
    against = {entry.second: entry for entry in differences if entry.first == best}
    apart = [name for name, entry in against.items() if entry.distinct]
    close = [name for name, entry in against.items() if not entry.distinct]
    if min(entry.gain.n for entry in standings) < 2:
        return "; with one seed of a method, differences between methods cannot be told from chance"
    seeds = _seed_range(standings)
    if not close:
        others = text.listed(apart) if len(apart) <= NAMED else f"all {len(apart)} others"
        return f"; with {seeds} it can be told apart from {others}"
    told = f"; it can be told apart from {_some(apart)}, but" if apart else "; but"
    others = _some(close, "or") if apart or len(close) <= NAMED else f"any of the {len(close)} others"
    return f"{told} with {seeds} it cannot be told apart from {others}"


def _some(names: list[str], last: str = "and") -> str:
    return text.listed(names, last) if len(names) <= NAMED else f"{len(names)} others"


def _seed_range(standings: tuple[Standing, ...]) -> str:
    counts = sorted({entry.gain.n for entry in standings})
    if len(counts) == 1:
        return f"{text.count(counts[0], 'seed')} each"
    return f"{counts[0]} to {counts[-1]} seeds each"


def _limits(run: Run, standings: tuple[Standing, ...], split: str) -> list[str]:
    limits = []
    if split != "held_out":
        limits.append("No held-out prompts were evaluated, so the answer is about the training prompts.")
    fewest = min((entry.gain.n for entry in standings), default=0)
    if 0 < fewest < 2:
        limits.append(
            "At least one method has a single finished seed: no spread, no interval. Two seeds give one, "
            "five or more a useful one."
        )
    elif 0 < fewest < FEW_SEEDS:
        limits.append(
            f"{text.count(fewest, 'seed')} a method are few: the intervals are Student's t, wide, and right "
            "only if results over seeds are roughly normal, which so few cannot show. Not being told apart "
            "does not mean being equal."
        )
    status = run_status(run)
    left_out = int((~status["counted"].astype(bool)).sum()) if len(status) else 0
    if left_out:
        limits.append(
            f"{left_out} of {text.count(len(status), 'seed')} did not finish and "
            f"{'is' if left_out == 1 else 'are'} left out of every mean, which flatters a method that fails "
            "when it goes badly."
        )
    unfinished = [name for name in run.methods if name not in {entry.method for entry in standings}]
    if standings and unfinished:
        limits.append(
            f"No seed of {text.listed(unfinished, 'or')} has finished, so nothing is said about it."
        )
    if any(entry.gain.n for entry in standings) and any(pd.isna(entry.base) for entry in standings):
        limits.append("The base model was not evaluated, so gains are unknown.")
    return limits
