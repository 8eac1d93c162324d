"""The question a run was made for, and the answer its records give, in plain sentences.

One question leads, named in the run's settings before it began: which method learns faster than the baseline over
the whole curve (`speed`), or which ends higher than it (`final`), judged by the suite's headline reward on prompts that
none was trained on. The other question is secondary: it is answered at the same confidence where the first is decided
or cannot be asked, so that a method and its copy give any difference in 5 % of runs, and is otherwise
only a suggestion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import text
from analysis.convergence import SPANS, UNDECIDED, WHOLE, Convergence, Speed
from analysis.costs import spending
from analysis.curves import final_values, run_status
from analysis.records import Records
from analysis.schema import PRM_TRAINING
from analysis.statistics import Difference, Interval, paired_gain, pairwise_differences

FEW_SEEDS = 5
"""Below this many seeds the report says that its intervals are wide and rest on assumed normality."""

NAMED = 4
"""The sentence names up to so many methods and counts more; the tables name all."""

LEVEL = 1e-9
"""Methods whose ends differ by less than this share of them ended level."""


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

    `speeds` are those of the whole curve in the budget's unit, `differences` of final rewards, for all pairs.
    `decided` says whether the primary question has a decision for every method it is about.
    """

    question: str
    primary: str
    secondary: str
    limits: tuple[str, ...]
    standings: tuple[Standing, ...]
    speeds: tuple[Speed, ...]
    differences: tuple[Difference, ...]
    decided: bool
    confidence: float

    @property
    def sentence(self) -> str:
        """The answer as one text."""
        return " ".join(filter(None, [self.primary, self.secondary]))


def answer(run: Records, course: Convergence) -> Answer:
    """Answer a run's question from its records; works for any part of a run, saying what cannot be said."""
    values = final_values(run)
    split = run.splits[0] if run.splits else "held_out"
    headline = values[(values["reward"] == run.suite.headline) & (values["split"] == split)]
    standings = _standings(run, headline)
    about_speed = run.question.asks == "speed"
    groups = {entry.method: _of(headline, entry.method) for entry in standings}
    differences = tuple(pairwise_differences(groups, 0.95 if about_speed else run.confidence))
    speeds = _primary_speeds(run, course)
    faster = [entry.verdict != UNDECIDED for entry in speeds]
    higher = [entry.distinct for entry in differences if course.baseline in (entry.first, entry.second)]
    asked = faster if about_speed else higher
    open_gate = not asked or any(asked)
    ending = _ending(run, standings, differences, split, firm=not about_speed or open_gate)
    speed = _speed(run, course, speeds, firm=about_speed or open_gate) if standings else ""
    primary, secondary = (speed or ending, ending if speed else "") if about_speed else (ending, speed)
    return Answer(
        question=_question(run, course, split),
        primary=primary,
        secondary=secondary,
        limits=tuple(_limits(run, standings, split, course)),
        standings=standings,
        speeds=tuple(speeds),
        differences=differences,
        decided=bool(asked) and all(asked),
        confidence=run.confidence,
    )


def _of(values: pd.DataFrame, method: str) -> np.ndarray:
    return values.loc[values["method"] == method, "final"].to_numpy()


def _standings(run: Records, headline: pd.DataFrame) -> tuple[Standing, ...]:
    """Methods with a finished seed and no NaN among their ends, best first."""
    entries = []
    for method in run.methods:
        seeds = headline[headline["method"] == method]
        finals, base = seeds["final"].to_numpy(), seeds["base"].to_numpy()
        if len(finals) and not np.isnan(finals).any():
            entries.append(
                Standing(method, float(base.mean()), float(finals.mean()), paired_gain(finals, base))
            )
    return tuple(sorted(entries, key=lambda entry: -entry.final))


def _primary_speeds(run: Records, course: Convergence) -> list[Speed]:
    unit = run.budget_unit if run.budget_unit in course.units else "iterations"
    return [entry for entry in course.speeds if entry.span == WHOLE and entry.unit == unit]


def _headline(run: Records) -> str:
    return text.reward_name(run.suite.headline)


def _question(run: Records, course: Convergence, split: str) -> str:
    trained = run.suite.role(run.suite.headline) == "training"
    kind = "which they were trained on" if trained else "which none was trained on"
    prompts = (
        "prompts that none was trained on" if split == "held_out" else "the prompts they were trained on"
    )
    judged = f"within {run.budget}, judged by {_headline(run)}, {kind}, on {prompts}?"
    if len(run.methods) < 2:
        return f"How far does {''.join(run.methods)} align the video model {judged}"
    if run.question.asks == "final":
        return f"Which method ends higher than {course.baseline} {judged}"
    return f"Which method learns faster than {course.baseline} {judged}"


def _ending(
    run: Records, standings: tuple[Standing, ...], differences: tuple[Difference, ...], split: str, firm: bool
) -> str:
    """Who ends highest, and from whom that differs."""
    if not standings:
        asked = text.listed(run.methods, "or")
        return (
            f"There is no answer yet: no seed of {asked} has finished with an evaluation of {_headline(run)}."
        )
    best = standings[0]
    level = [e.method for e in standings if abs(e.final - best.final) <= LEVEL * abs(best.final)]
    several = len(standings) > 1
    if len(level) > 1:
        ended = f"{text.listed(level)} ended level"
    elif len(standings) < len(run.methods):
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
        f"{_headline(run)} on {text.SPLIT_NAMES[split]} {verb} "
        f"{f'at {text.number(best.final)}' if verb == 'stayed' else way}"
    )
    rest = "" if len(level) > 1 else _from_others(standings, differences, firm)
    return f"{ended}: {moved} ({_gain(best)}){rest}."


def _gain(best: Standing) -> str:
    seeds = text.count(best.gain.n, "seed")
    if best.gain.alike:
        return f"{text.signed(best.gain.mean)}; all {seeds} alike, so no interval"
    if not best.gain.known:
        return f"{text.signed(best.gain.mean)}; {seeds}, so no interval"
    doubt = "" if best.gain.excludes_zero else ", which includes no change"
    return f"{text.signed(best.gain.mean)}, 95 % interval {text.interval(best.gain)} over {seeds}{doubt}"


def _from_others(standings: tuple[Standing, ...], differences: tuple[Difference, ...], firm: bool) -> str:
    """From which of the others the best differs beyond chance."""
    if len(standings) < 2:
        return ""
    if min(entry.gain.n for entry in standings) < 2:
        return "; with one seed of a method nothing is known of chance"
    best = standings[0].method
    against = {entry.second: entry for entry in differences if entry.first == best}
    apart = [name for name, entry in against.items() if entry.distinct]
    close = [name for name, entry in against.items() if not entry.distinct]
    others = _some(apart) if close or len(apart) <= NAMED else f"all {len(apart)} others"
    clauses = [f"with {_seed_range(standings)} "]
    if apart and firm:
        clauses.append(f"that is higher than {others} beyond chance")
    elif apart:
        clauses.append(
            f"the intervals suggest that this is higher than {others}, to be confirmed on other seeds"
        )
    if close:
        rest = _some(close, "or") if apart or len(close) <= NAMED else f"any of the {len(close)} others"
        clauses.append(f"{', but ' if apart else ''}no difference from {rest} is shown")
    return "; " + "".join(clauses)


def _some(names: list[str], last: str = "and") -> str:
    return text.listed(names, last) if len(names) <= NAMED else f"{len(names)} others"


def _speed(run: Records, course: Convergence, entries: list[Speed], firm: bool) -> str:
    """Who learns faster than the baseline over the whole curve, in the budget's unit; empty for a single method."""
    if len(run.methods) < 2:
        return ""
    if not entries:
        return f"No speed-up is given: {course.why_not or 'no other method has finished'}."
    low, high = SPANS[WHOLE]
    path = (
        f"From {text.percent(low)} to {text.percent(high)} of {course.baseline}'s gain in {_headline(run)} "
    )
    path += f"({text.number(course.reward_at(low))} to {text.number(course.reward_at(high))})"
    unit = text.UNIT_TITLES[entries[0].unit]
    return f"{path}, counted in {unit}, {_verdicts(entries, course.baseline, firm)}."


def _verdicts(entries: list[Speed], baseline: str, firm: bool) -> str:
    """Who is faster than the baseline, who slower, and of whom no difference is shown."""
    ordered = sorted(entries, key=lambda entry: -entry.ratio.value)
    clauses: list[str] = []
    for verdict in ("faster", "slower"):
        chosen = [entry for entry in ordered if entry.verdict == verdict]
        if chosen:
            is_are = "is" if len(chosen) == 1 else "are"
            said = f"{is_are} {verdict}" if firm else f"{'seems' if len(chosen) == 1 else 'seem'} {verdict}"
            clauses.append(
                f"{_ratios(chosen)} {said} than {baseline}" if not clauses else f"{_ratios(chosen)} {said}"
            )
    unclear = [entry for entry in ordered if entry.verdict == UNDECIDED]
    if unclear:
        from_whom = "" if clauses else f" from {baseline}"
        clauses.append(f"no difference{from_whom} is shown for {_ratios(unclear, 'or')}")
    if not firm and len(unclear) < len(entries):
        clauses.append("to be confirmed on other seeds")
    return "; ".join(clauses)


def _ratios(entries: list[Speed], last: str = "and") -> str:
    """`a (1.42×, 95 % interval 1.05 to 2.10) and b (...)`, or how many."""
    if len(entries) > NAMED:
        return f"{len(entries)} methods"
    return text.listed([f"{entry.method} ({_ratio(entry)})" for entry in entries], last)


def _ratio(entry: Speed) -> str:
    """The ratio with its bounds, as far as there are any."""
    ratio = entry.ratio
    level = f"{100 * ratio.confidence:.3g} % interval"
    if ratio.value > 0:
        bounds = text.bounds(ratio.low, ratio.high)
        return f"{text.ratio(ratio.value)}, {f'{level} {bounds}' if bounds[0].isdigit() else bounds}"
    if ratio.known and math.isfinite(ratio.high):
        return f"does not get so far, {text.ratio(ratio.high)} at most"
    return "does not get so far"


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
            "only if results over seeds are roughly normal, which so few cannot show. A difference that is "
            "not shown may still be there."
        )
    limits += _left_out(run, standings)
    if course.fell and course.speeds:
        limits.append(
            f"{course.baseline} peaked at {text.number(course.peak)} and ended at {text.number(course.end)}: targets "
            "are shares of what was left, and reaching them sooner says little."
        )
    limits += _uncharged(run, [entry.method for entry in standings])
    if run.looks > 1:
        limits.append(
            f"Seeds were added in planned looks; this is look {run.looks}, judged at {100 * run.confidence:.3g} % "
            "so that all looks together raise a false alarm in 5 % of runs."
        )
    if any(entry.gain.n for entry in standings) and any(math.isnan(entry.base) for entry in standings):
        limits.append("The base model was not evaluated, so gains are unknown.")
    return limits


def _left_out(run: Records, standings: tuple[Standing, ...]) -> list[str]:
    """Seeds and methods of which the answer says nothing."""
    limits = []
    status = run_status(run)
    left_out = int((~status["counted"].astype(bool)).sum()) if len(status) else 0
    if left_out:
        limits.append(
            f"{left_out} of {text.count(len(status), 'seed')} did not finish and "
            f"{'is' if left_out == 1 else 'are'} left out of every mean, which flatters a method that fails "
            "when it goes badly."
        )
    silent = [name for name in run.methods if name not in {entry.method for entry in standings}]
    finished = set(status.loc[status["counted"].astype(bool), "method"]) if len(status) else set()
    broken = [name for name in silent if name in finished]
    if broken:
        limits.append(
            f"A final {_headline(run)} of {text.listed(broken, 'or')} is not a number, so nothing is said about it."
        )
    unfinished = [name for name in silent if name not in finished]
    if standings and unfinished:
        limits.append(
            f"No seed of {text.listed(unfinished, 'or')} has finished, so nothing is said about it."
        )
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
