"""The question a run was made for, and the answer its records give, in plain sentences.

One question leads, named in the run's settings before it began: which method learns faster than the baseline over
the whole curve (`speed`), or which ends higher than it (`final`), judged by the suite's headline reward on prompts that
none was trained on. The other question is secondary: it is answered at the same confidence where the first is decided
or cannot be asked, so that a method and its copy give any difference in 5 % of runs, and is otherwise
only a suggestion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import text
from analysis.convergence import SPANS, UNDECIDED, WHOLE, Convergence, Speed
from analysis.costs import spending
from analysis.curves import final_values, run_status
from analysis.records import Records
from analysis.schema import PRM_TRAINING
from analysis.statistics import Difference, Interval, paired_gain, pairwise_differences
from analysis.statistics.speed import Estimate

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

    @property
    def sentence(self) -> str:
        """The answer as one text."""
        return " ".join(filter(None, [self.primary, self.secondary]))


def answer(run: Records, course: Convergence) -> Answer:
    """Answer a run's question from its records; works for any part of a run, saying what cannot be said."""
    values = final_values(run)
    headline = values[(values["reward"] == run.suite.headline) & (values["split"] == run.split)]
    seeds = {str(name): own for name, own in headline.groupby("method") if own["final"].notna().all()}
    standings = _standings({name: seeds[name] for name in run.methods if name in seeds})
    about_speed = run.question.asks == "speed"
    finals = {entry.method: seeds[entry.method]["final"] for entry in standings}
    differences = tuple(pairwise_differences(finals, 0.95 if about_speed else run.confidence))
    speeds = tuple(entry for entry in course.speeds if entry.span == WHOLE and entry.unit == course.unit)
    if about_speed:
        asked = [entry.verdict != UNDECIDED for entry in speeds]
    else:
        asked = [entry.distinct for entry in differences if course.baseline in (entry.first, entry.second)]
    gate = not asked or any(asked)
    ending = _ending(run, standings, differences, firm=gate or not about_speed)
    speed = _speed(run, course, speeds, firm=gate or about_speed) if standings else ""
    said = filter(None, [speed, ending] if about_speed else [ending, speed])
    return Answer(
        question=_question(run, course),
        primary=next(said),
        secondary=next(said, ""),
        limits=tuple(_limits(run, standings, course)),
        standings=standings,
        speeds=speeds,
        differences=differences,
        decided=bool(asked) and all(asked),
    )


def _standings(seeds: Mapping[str, pd.DataFrame]) -> tuple[Standing, ...]:
    """From each method's rows of `final_values`, best first."""
    found = [
        Standing(
            name,
            float(own["base"].mean()),
            float(own["final"].mean()),
            paired_gain(own["final"], own["base"]),
        )
        for name, own in seeds.items()
    ]
    return tuple(sorted(found, key=lambda entry: -entry.final))


def _question(run: Records, course: Convergence) -> str:
    trained = "trained on" if run.suite.role(run.suite.headline) == "training" else "not trained on"
    reward = f"{text.reward_name(run.suite.headline)} ({trained})"
    judged = f"within {run.budget}, judged by {reward} on {text.SPLIT_NAMES[run.split]}?"
    if len(run.methods) < 2:
        return f"How far does {''.join(run.methods)} align the video model {judged}"
    asks = "ends higher" if run.question.asks == "final" else "learns faster"
    return f"Which method {asks} than {course.baseline} {judged}"


def _ending(
    run: Records, standings: Sequence[Standing], differences: Sequence[Difference], firm: bool
) -> str:
    """Who ends highest, and from whom that differs."""
    reward = text.reward_name(run.suite.headline)
    if not standings:
        asked = text.listed(run.methods, "or")
        return f"There is no answer yet: no seed of {asked} has finished with an evaluation of {reward}."
    best, gain = standings[0], standings[0].gain
    level = [e.method for e in standings if abs(e.final - best.final) <= LEVEL * abs(best.final)]
    if len(run.methods) == 1:
        ended = f"{best.method} was trained"
    elif len(standings) == 1:
        ended = f"Only {best.method} has finished"
    elif len(level) > 1:
        ended = f"{text.listed(level)} ended level"
    elif len(standings) < len(run.methods):
        ended = f"Of the {len(standings)} methods that finished, {best.method} ended highest"
    elif gain.mean < 0:
        ended = f"No method gained, and {best.method} lost least"
    else:
        ended = f"{best.method} ended highest"
    verb = "rose" if gain.mean > 0 else "fell" if gain.mean < 0 else ""
    way = f"{verb} from {text.number(best.base)} to" if verb else "ended at"
    others = "" if len(level) > 1 else _from_others(standings, differences, firm)
    where = text.SPLIT_NAMES[run.split]
    return f"{ended}: {reward} on {where} {way} {text.number(best.final)} ({_gain(gain)}){others}."


def _gain(gain: Interval) -> str:
    seeds = text.count(gain.n, "seed")
    if not gain.known:
        return f"{text.signed(gain.mean)}; {f'all {seeds} alike' if gain.alike else seeds}, so no interval"
    doubt = "" if gain.excludes_zero else ", which includes no change"
    return f"{text.signed(gain.mean)}, 95 % interval {text.interval(gain)} over {seeds}{doubt}"


def _from_others(standings: Sequence[Standing], differences: Sequence[Difference], firm: bool) -> str:
    """From which of the others the best differs beyond chance."""
    if len(standings) < 2:
        return ""
    if min(entry.gain.n for entry in standings) < 2:
        return "; with one seed of a method nothing is known of chance"
    against = [entry for entry in differences if entry.first == standings[0].method]
    apart = [entry.second for entry in against if entry.distinct]
    close = [entry.second for entry in against if not entry.distinct]
    higher = "that is higher than {} beyond chance"
    if not firm:
        higher = "the intervals suggest that this is higher than {}, to be confirmed on other seeds"
    said = [higher.format(_some(apart))] if apart else []
    said += [f"no difference from {_some(close, 'or')} is shown"] if close else []
    seeds = text.counts((entry.gain.n for entry in standings), "seed")
    return f"; with {seeds} each {', but '.join(said)}"


def _some(names: list[str], last: str = "and") -> str:
    counted = f"any of {len(names)} others" if last == "or" else f"{len(names)} others"
    return text.listed(names, last) if len(names) <= NAMED else counted


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
    span = f"From {text.percent(low)} to {text.percent(high)} of {gain} ({rewards}), {counted}"
    said = []
    for verdict in ("faster", "slower", UNDECIDED):
        chosen = [entry for entry in entries if entry.verdict == verdict]
        if chosen:
            be = ("is", "are") if firm or verdict == UNDECIDED else ("seems", "seem")
            than = "not shown to differ from" if verdict == UNDECIDED else f"{verdict} than"
            said.append(f"{_ratios(chosen)} {be[len(chosen) > 1]} {than} {course.baseline}")
    if not firm and any(entry.verdict != UNDECIDED for entry in entries):
        said.append("to be confirmed on other seeds")
    return f"{span}, {'; '.join(said)}."


def _ratios(entries: Sequence[Speed]) -> str:
    """`a (1.42×, 95 % interval 1.05 to 2.10) and b (...)`, the fastest first, or how many."""
    if len(entries) > NAMED:
        return f"{len(entries)} methods"
    ordered = sorted(entries, key=lambda entry: -entry.ratio.value)
    return text.listed([f"{entry.method} ({_ratio(entry.ratio)})" for entry in ordered])


def _ratio(ratio: Estimate) -> str:
    """The ratio with its bounds, as far as there are any."""
    if not ratio.value > 0:
        known = ratio.known and math.isfinite(ratio.high)
        return "does not get so far" + (f", {text.ratio(ratio.high)} at most" if known else "")
    bounds = text.bounds(ratio.low, ratio.high)
    level = "" if bounds.startswith("no ") else f"{100 * ratio.confidence:.3g} % interval "
    return f"{text.ratio(ratio.value)}, {level}{bounds}"


def _limits(run: Records, standings: Sequence[Standing], course: Convergence) -> Iterator[str]:
    """What the answer rests on, and of which seeds and methods it says nothing."""
    fewest = min((entry.gain.n for entry in standings), default=FEW_SEEDS)
    if fewest == 1:
        yield "A method with a single finished seed has no spread, no interval; five seeds or more give a useful one."
    elif fewest < FEW_SEEDS:
        yield (
            f"{fewest} seeds a method are few: the intervals are Student's t, wide, and right only if results over "
            "seeds are roughly normal, which so few cannot show. A difference that is not shown may still be there."
        )
    status = run_status(run)
    out = int((~status["counted"]).sum())
    if out:
        yield (
            f"{out} of {text.count(len(status), 'seed')} did not finish and {'is' if out == 1 else 'are'} left out of "
            "every mean, which flatters a method that fails when it goes badly."
        )
    silent = set(run.methods) - {entry.method for entry in standings}
    for name in (name for name in run.methods if name in silent and standings):
        if status.loc[status["method"] == name, "counted"].any():
            reward = text.reward_name(run.suite.headline)
            yield f"A final {reward} of {name} is not a number, so nothing is said about it."
        else:
            yield f"No seed of {name} has finished, so nothing is said about it."
    if course.fell and course.speeds:
        yield (
            f"{course.baseline} peaked at {text.number(course.peak)} and ended at {text.number(course.end)}: targets "
            "are shares of what was left, and reaching them sooner says little."
        )
    yield from _uncharged(run, standings)
    if run.looks > 1:
        yield (
            f"Seeds were added in planned looks; this is look {run.looks}, judged at {100 * run.confidence:.3g} % so "
            "that all looks together raise a false alarm in 5 % of runs."
        )


def _uncharged(run: Records, standings: Sequence[Standing]) -> Iterator[str]:
    """Training a process reward model that costs more than a twentieth of a run and is not in the budget."""
    spent = spending(run)
    parts = spent.parts[spent.parts["method"].isin([entry.method for entry in standings])]
    training = (parts["component"] == PRM_TRAINING) & (parts["quantity"] == "tflops")
    paid = parts[training].set_index("method")["value"]
    price, used = paid.mean(), spent.totals["tflops"].reindex(paid.index).mean()
    if price > 0.05 * used and not run.charges_prm:
        names = text.listed(list(paid.index))
        yield (
            f"Training the process reward model took {text.cost(price, 'tflops')} TFLOP, {price / used:.3g} "
            f"times what a run of {names} used; the budget does not charge it (--charge-prm does)."
        )
