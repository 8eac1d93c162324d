"""The question a run was made for, and the answer its records give, in plain sentences.

One question leads, named in the run's settings before it began: which method learns faster than the baseline over
the whole curve (`speed`), or which ends higher than it (`final`), judged by the suite's headline reward on prompts that
none was trained on. The other question is secondary: it is answered at the same confidence where the first is decided
or cannot be asked, so that a method and its copy give any difference in 5 % of runs, and is otherwise
only a suggestion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    headline = values[(values["reward"] == run.suite.headline) & (values["split"] == run.split)]
    groups = {method: headline[headline["method"] == method] for method in run.methods}
    standings = tuple(sorted(filter(None, map(_standing, groups.values())), key=lambda entry: -entry.final))
    about_speed = run.question.asks == "speed"
    ends = {entry.method: groups[entry.method]["final"].to_numpy() for entry in standings}
    differences = tuple(pairwise_differences(ends, 0.95 if about_speed else run.confidence))
    speeds = tuple(entry for entry in course.speeds if entry.span == WHOLE and entry.unit == course.unit)
    if about_speed:
        asked = [entry.verdict != UNDECIDED for entry in speeds]
    else:
        asked = [entry.distinct for entry in differences if course.baseline in (entry.first, entry.second)]
    gate = not asked or any(asked)
    ending = _ending(run, standings, differences, firm=gate or not about_speed)
    speed = _speed(run, course, speeds, firm=gate or about_speed) if standings else ""
    return Answer(
        question=_question(run, course),
        primary=(speed or ending) if about_speed else ending,
        secondary=speed if not about_speed else ending if speed else "",
        limits=tuple(_limits(run, standings, course)),
        standings=standings,
        speeds=speeds,
        differences=differences,
        decided=bool(asked) and all(asked),
        confidence=run.confidence,
    )


def _standing(seeds: pd.DataFrame) -> Standing | None:
    """Of one method's finished seeds; None if there is none, or a NaN among their ends."""
    finals, base = seeds["final"].to_numpy(), seeds["base"].to_numpy()
    if not len(finals) or np.isnan(finals).any():
        return None
    name = str(seeds["method"].iloc[0])
    return Standing(name, float(base.mean()), float(finals.mean()), paired_gain(finals, base))


def _question(run: Records, course: Convergence) -> str:
    role = "which they were" if run.suite.role(run.suite.headline) == "training" else "which none was"
    prompts = (
        "prompts that none was trained on" if run.split == "held_out" else "the prompts they were trained on"
    )
    reward = text.reward_name(run.suite.headline)
    judged = f"within {run.budget}, judged by {reward}, {role} trained on, on {prompts}?"
    if len(run.methods) < 2:
        return f"How far does {''.join(run.methods)} align the video model {judged}"
    asks = "ends higher" if run.question.asks == "final" else "learns faster"
    return f"Which method {asks} than {course.baseline} {judged}"


def _ending(
    run: Records, standings: tuple[Standing, ...], differences: tuple[Difference, ...], firm: bool
) -> str:
    """Who ends highest, and from whom that differs."""
    reward = text.reward_name(run.suite.headline)
    if not standings:
        asked = text.listed(run.methods, "or")
        return f"There is no answer yet: no seed of {asked} has finished with an evaluation of {reward}."
    best, several = standings[0], len(standings) > 1
    level = [e.method for e in standings if abs(e.final - best.final) <= LEVEL * abs(best.final)]
    if len(level) > 1:
        ended = f"{text.listed(level)} ended level"
    elif len(standings) < len(run.methods):
        some = f"Of the {len(standings)} methods that finished, {best.method} ended highest"
        ended = some if several else f"Only {best.method} has finished"
    elif several and best.gain.mean < 0:
        ended = f"No method gained, and {best.method} lost least"
    else:
        ended = f"{best.method} ended highest" if several else f"{best.method} was trained"
    way = f"from {text.number(best.base)} to {text.number(best.final)}"
    way = f"rose {way}" if best.gain.mean > 0 else f"fell {way}" if best.gain.mean < 0 else way
    if not best.gain.mean:
        way = f"stayed at {text.number(best.final)}"
    elif math.isnan(best.gain.mean):
        way = f"ended at {text.number(best.final)}"
    rest = "" if len(level) > 1 else _from_others(standings, differences, firm)
    return f"{ended}: {reward} on {text.SPLIT_NAMES[run.split]} {way} ({_gain(best)}){rest}."


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
    against = [entry for entry in differences if entry.first == standings[0].method]
    apart = [entry.second for entry in against if entry.distinct]
    close = [entry.second for entry in against if not entry.distinct]
    others = _some(apart) if close or len(apart) <= NAMED else f"all {len(apart)} others"
    higher = f"that is higher than {others} beyond chance"
    if not firm:
        higher = f"the intervals suggest that this is higher than {others}, to be confirmed on other seeds"
    rest = _some(close, "or") if apart or len(close) <= NAMED else f"any of the {len(close)} others"
    same = f"no difference from {rest} is shown"
    said = ", but ".join([*([higher] if apart else []), *([same] if close else [])])
    return f"; with {text.counts((entry.gain.n for entry in standings), 'seed')} each {said}"


def _some(names: list[str], last: str = "and") -> str:
    return text.listed(names, last) if len(names) <= NAMED else f"{len(names)} others"


def _speed(run: Records, course: Convergence, entries: Sequence[Speed], firm: bool) -> str:
    """Who learns faster than the baseline over the whole curve, in the budget's unit; empty for a single method."""
    if len(run.methods) < 2:
        return ""
    if not entries:
        return f"No speed-up is given: {course.why_not or 'no other method has finished'}."
    low, high = SPANS[WHOLE]
    gain = f"{course.baseline}'s gain in {text.reward_name(run.suite.headline)}"
    rewards = f"{text.number(course.reward_at(low))} to {text.number(course.reward_at(high))}"
    counted = f"counted in {text.UNIT_TITLES[entries[0].unit]}"
    verdicts = _verdicts(entries, course.baseline, firm)
    return f"From {text.percent(low)} to {text.percent(high)} of {gain} ({rewards}), {counted}, {verdicts}."


def _verdicts(entries: Sequence[Speed], baseline: str, firm: bool) -> str:
    """Who is faster than the baseline, who slower, and of whom no difference is shown."""
    ordered = sorted(entries, key=lambda entry: -entry.ratio.value)
    clauses: list[str] = []
    for verdict in ("faster", "slower"):
        chosen = [entry for entry in ordered if entry.verdict == verdict]
        if chosen:
            verb = ("is" if firm else "seems") if len(chosen) == 1 else ("are" if firm else "seem")
            clauses.append(f"{_ratios(chosen)} {verb} {verdict}" + ("" if clauses else f" than {baseline}"))
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


def _limits(run: Records, standings: tuple[Standing, ...], course: Convergence) -> list[str]:
    limits = []
    if run.split != "held_out":
        limits.append("No held-out prompts were evaluated, so the answer is about the training prompts.")
    fewest = min((entry.gain.n for entry in standings), default=FEW_SEEDS)
    if fewest == 1:
        limits.append(
            "At least one method has a single finished seed: no spread, no interval. Two seeds give one, "
            "five or more a useful one."
        )
    elif fewest < FEW_SEEDS:
        limits.append(
            f"{fewest} seeds a method are few: the intervals are Student's t, wide, and right only if results over "
            "seeds are roughly normal, which so few cannot show. A difference that is not shown may still be there."
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
    if any(math.isnan(entry.base) for entry in standings):
        limits.append("The base model was not evaluated, so gains are unknown.")
    return limits


def _left_out(run: Records, standings: tuple[Standing, ...]) -> list[str]:
    """Seeds and methods of which the answer says nothing."""
    limits = []
    status = run_status(run)
    count = int((~status["counted"]).sum())
    if count:
        limits.append(
            f"{count} of {text.count(len(status), 'seed')} did not finish and {'is' if count == 1 else 'are'} left out "
            "of every mean, which flatters a method that fails when it goes badly."
        )
    finished = set(status.loc[status["counted"], "method"])
    silent = [name for name in run.methods if name not in {entry.method for entry in standings}]
    broken = [name for name in silent if name in finished]
    missing = [name for name in silent if name not in finished]
    it = "so nothing is said about it."
    if broken:
        reward = text.reward_name(run.suite.headline)
        limits.append(f"A final {reward} of {text.listed(broken, 'or')} is not a number, {it}")
    if standings and missing:
        limits.append(f"No seed of {text.listed(missing, 'or')} has finished, {it}")
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
