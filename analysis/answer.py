"""The question a run was made for, and the answer its records give, in plain sentences.

The question: which method ends highest on the suite's headline reward, which none was trained on, for
prompts that none was trained on; by how much over the base model; can the methods be told apart with this
many seeds; and which reaches the baseline's end sooner, in the unit of the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis import text
from analysis.convergence import SHARES, UNDECIDED, Convergence, Speed
from analysis.costs import spending
from analysis.curves import final_values, run_status
from analysis.records import Records
from analysis.schema import PRM_TRAINING
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
    """`sentence` answers `question`; `limits` says what it rests on; `standings` are best first.

    The sentence is `ending`, who ends highest, and then `speed`, who reaches the baseline's end sooner.
    """

    question: str
    ending: str
    speed: str
    limits: tuple[str, ...]
    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...]

    @property
    def sentence(self) -> str:
        """The answer as one text."""
        return " ".join(filter(None, [self.ending, self.speed]))


def answer(run: Records, course: Convergence) -> Answer:
    """Answer a run's question from its records; works for any part of a run, saying what cannot be said."""
    values = final_values(run)
    split = run.splits[0] if run.splits else "held_out"
    headline = values[(values["reward"] == run.suite.headline) & (values["split"] == split)]
    standings = _standings(run, headline)
    groups = {entry.method: _of(headline, entry.method)["final"].to_numpy() for entry in standings}
    differences = tuple(pairwise_differences(groups))
    return Answer(
        question=_question(run, split),
        ending=_sentence(run, standings, differences, split),
        speed=_speed(run, course) if standings else "",
        limits=tuple(_limits(run, standings, split, course)),
        standings=standings,
        differences=differences,
    )


def _of(values: pd.DataFrame, method: str) -> pd.DataFrame:
    return values[values["method"] == method]


def _standings(run: Records, headline: pd.DataFrame) -> tuple[Standing, ...]:
    entries = []
    for method in run.methods:
        seeds = _of(headline, method)
        if len(seeds):
            gain = paired_gain(seeds["final"].to_numpy(), seeds["base"].to_numpy())
            entries.append(Standing(method, float(seeds["base"].mean()), float(seeds["final"].mean()), gain))
    return tuple(sorted(entries, key=lambda entry: -entry.final))


def _headline(run: Records) -> str:
    return text.reward_name(run.suite.headline)


def _question(run: Records, split: str) -> str:
    trained = run.suite.role(run.suite.headline) == "training"
    kind = "which they were trained on" if trained else "which none was trained on"
    prompts = (
        "prompts that none was trained on" if split == "held_out" else "the prompts they were trained on"
    )
    several = len(run.methods) > 1
    who = "Which method aligns" if several else f"How far does {''.join(run.methods)} align"
    best = " best, and which converges soonest," if several else ""
    return (
        f"{who} the video model{best} within {run.budget}, judged by {_headline(run)}, {kind}, on {prompts}?"
    )


def _sentence(
    run: Records, standings: tuple[Standing, ...], differences: tuple[Difference, ...], split: str
) -> str:
    if not standings:
        asked = text.listed(run.methods, "or")
        return (
            f"There is no answer yet: no seed of {asked} has finished with an evaluation of {_headline(run)}."
        )
    best = standings[0]
    prompts = text.SPLIT_NAMES[split]
    several = len(standings) > 1
    if len(standings) < len(run.methods):
        ended = (
            f"Of the {len(standings)} methods that finished, {best.method} ended highest"
            if several
            else f"Only {best.method} has finished"
        )
    elif several and best.gain.mean < 0:
        ended = f"No method gained, and {best.method} lost least"
    else:
        ended = f"{best.method} ended highest" if several else f"{best.method} was trained"
    verb = "rose" if best.gain.mean > 0 else "fell" if best.gain.mean < 0 else "stayed"
    way = f"from {text.number(best.base)} to {text.number(best.final)}"
    moved = (
        f"{_headline(run)} on {prompts} {verb} {f'at {text.number(best.final)}' if verb == 'stayed' else way}"
    )
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


def _speed(run: Records, course: Convergence) -> str:
    """Who reaches the baseline's end sooner, in the budget's unit; empty for a single method."""
    if len(run.methods) < 2:
        return ""
    unit = run.budget_unit if run.budget_unit in course.units else "iterations"
    entries = [entry for entry in course.speeds if entry.share == 1.0 and entry.unit == unit]
    if not entries:
        why = course.why_not or "no other method has finished"
        return f"Who converges soonest cannot be said: {why}."
    goal = f"{course.baseline}'s final {_headline(run)} ({text.number(course.end)})"
    told = f"Counted in {text.UNIT_TITLES[unit]}, {_reaching(entries, goal)}"
    if any(entry.verdict != UNDECIDED for entry in entries):
        return f"{told}."
    for share in sorted(SHARES, reverse=True)[1:]:
        nearer = [entry for entry in course.speeds if entry.share == share and entry.unit == unit]
        decided = [entry for entry in nearer if entry.verdict != UNDECIDED]
        if decided:
            nearer_goal = f"{text.percent(share)} of its gain ({text.number(decided[0].target)})"
            return f"{told}; {_reaching(decided, nearer_goal)}."
    return f"{told}."


def _reaching(entries: list[Speed], goal: str) -> str:
    """Who reaches a goal sooner than the baseline, who later, and of whom it cannot be said."""
    ordered = sorted(entries, key=lambda entry: -entry.ratio.value if entry.ratio.value > 0 else 0.0)
    faster, slower, unclear = (
        [entry for entry in ordered if entry.verdict == verdict]
        for verdict in ("faster", "slower", UNDECIDED)
    )
    short = [entry for entry in slower if not entry.ratio.value > 0]
    later = [entry for entry in slower if entry.ratio.value > 0]
    clauses = []
    if faster:
        clauses.append(f"{_ratios(faster)} {_verb(faster)} {goal} sooner")
    if later and not faster:
        clauses.append(f"{_ratios(later)} {_verb(later)} {goal} later than the baseline")
    elif later:
        clauses.append(f"{_ratios(later)} later")
    if short:
        names = text.listed([e.method for e in short]) if len(short) <= NAMED else f"{len(short)} methods"
        verb = "ends" if len(short) == 1 else "end"
        clauses.append(f"{names} {verb} short of {'it' if clauses else goal}")
    if unclear:
        names = _ratios(unclear, "or")
        if not clauses and len(unclear) > NAMED:
            clauses.append(f"of none of {names} can it be said whether it reaches {goal} sooner")
        elif not clauses:
            clauses.append(f"it cannot be said whether {names} reaches {goal} sooner")
        else:
            clauses.append(f"of {names} it cannot be said")
    return "; ".join(clauses)


def _verb(entries: list[Speed]) -> str:
    return "reaches" if len(entries) == 1 else "reach"


def _ratios(entries: list[Speed], last: str = "and") -> str:
    """`a (1.42×, 95 % interval 1.05 to 2.10) and b (...)`, or how many."""
    if len(entries) > NAMED:
        return f"{len(entries)} methods"
    return text.listed([f"{entry.method} ({_ratio(entry)})" for entry in entries], last)


def _ratio(entry: Speed) -> str:
    """The ratio with its bounds, as far as there are any."""
    bounds = text.bounds(entry.ratio.low, entry.ratio.high)
    interval = f"95 % interval {bounds}" if bounds[0].isdigit() else bounds
    if entry.ratio.value > 0:
        return f"{text.ratio(entry.ratio.value)}, {interval}"
    return f"did not reach it, at most {entry.ratio.high:.2f}×" if bounds[0].isdigit() else "did not reach it"


def _seed_range(standings: tuple[Standing, ...]) -> str:
    counts = sorted({entry.gain.n for entry in standings})
    if len(counts) == 1:
        return f"{text.count(counts[0], 'seed')} each"
    return f"{counts[0]} to {counts[-1]} seeds each"


def _limits(run: Records, standings: tuple[Standing, ...], split: str, course: Convergence) -> list[str]:
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
    if course.fell and course.speeds:
        limits.append(
            f"{course.baseline} peaked at {text.number(course.peak)} and ended at {text.number(course.end)}: its end "
            "is a low target, and who reaches it sooner says little."
        )
    limits += _uncharged(run, [entry.method for entry in standings])
    unfinished = [name for name in run.methods if name not in {entry.method for entry in standings}]
    if standings and unfinished:
        limits.append(
            f"No seed of {text.listed(unfinished, 'or')} has finished, so nothing is said about it."
        )
    if any(entry.gain.n for entry in standings) and any(pd.isna(entry.base) for entry in standings):
        limits.append("The base model was not evaluated, so gains are unknown.")
    return limits


def _uncharged(run: Records, methods: list[str]) -> list[str]:
    """Training a process reward model that costs more than a twentieth of a run and is not in the budget."""
    spent = spending(run)
    parts = spent.parts[(spent.parts["quantity"] == "tflops") & spent.parts["method"].isin(methods)]
    paid = parts[parts["component"] == PRM_TRAINING].set_index("method")["value"]
    if run.charges_prm or not len(paid):
        return []
    used = float(spent.totals.loc[paid.index, "tflops"].mean())
    if not paid.mean() > 0.05 * used:
        return []
    names = text.listed([str(name) for name in paid.index])
    return [
        f"Training the process reward model took {text.cost(float(paid.mean()), 'tflops')} TFLOP, "
        f"{text.factor(float(paid.mean() / used))} times what a run of {names} used; the budget does not charge it "
        "(--charge-prm does)."
    ]
