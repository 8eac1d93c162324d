"""Benchmarks whose answer is known, and how often the statistics of `analysis` say so.

`python -m tests.analysis.simulation` prints the tables of docs/statistics.md; the tests run parts of it.

A seed of a method learns as level x (1 - exp(-speed x rate x cost / 20)): level and rate differ from seed to seed,
and every evaluation adds noise. The base model's evaluation is shared and so the same for all. The defaults resemble
what the testbed shows: final values differ over seeds by about a sixth of the gain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtri, stdtrit
from scipy.stats import t as student

from analysis.convergence import SPANS, WHOLE
from analysis.statistics import half_width, pairwise_differences, welch_difference
from analysis.statistics.planning import seeds_needed
from analysis.statistics.pooling import pooled
from analysis.statistics.sequential import look_confidences
from analysis.statistics.speed import Span, speed_up

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SEEDS = (3, 5, 10)
LOOKS = (5, 10, 15, 20)

_SCALE = 20.0  # cost at which a method of speed 1 has learnt 63 % of its level


@dataclass(frozen=True)
class World:
    """How methods learn: the first at `speed` towards `plateau`, all others, the baseline last, at 1 towards `gain`.

    `level`, `rate` and `noise` are standard deviations: of a seed's gain, of the log of its rate, and of one
    evaluation. `shared` is the part of the variance of each that runs of equal seed have in common.
    `heavy` draws level and rate from Student's t with 3 degrees of freedom, scaled to the same deviation.
    """

    seeds: int = 5
    speed: float = 1.66
    plateau: float = 1.0
    gain: float = 1.0
    evaluations: int = 13
    budget: float = 60.0
    level: float = 0.15
    rate: float = 0.2
    noise: float = 0.05
    shared: float = 0.0
    heavy: bool = False

    @cached_property
    def cost(self) -> Floats:
        """Costs of the evaluations, (evaluations,), 0 first."""
        return np.linspace(0, self.budget, self.evaluations)

    def curves(self, rng: np.random.Generator, repetitions: int = 1, methods: int = 2) -> Floats:
        """Values (repetitions, methods, seeds, evaluations)."""
        shape = repetitions, methods, self.seeds
        level, rate = np.split(self._draw(rng, (*shape, 2), self.heavy), 2, axis=-1)
        speed = np.array([self.speed, *[1.0] * (methods - 1)])[:, None, None]
        means = np.array([self.plateau, *[self.gain] * (methods - 1)])[:, None, None]
        learnt = 1 - np.exp(-self.cost * speed / _SCALE * np.exp(self.rate * rate))
        noise = self.noise * self._draw(rng, (*shape, self.evaluations), heavy=False)
        noise[..., 0] = 0
        return np.asarray((means + self.level * level) * learnt + noise)

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...], heavy: bool) -> Floats:
        """Standard deviates, of which runs of equal seed (axis 2) share a part over methods (axis 1)."""

        def standard(size: tuple[int, ...]) -> Floats:
            return rng.standard_t(3, size) / np.sqrt(3) if heavy else rng.normal(size=size)

        common, own = standard((shape[0], 1, *shape[2:])), standard(shape)
        return np.asarray(np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own)

    def expected(self, cost: Floats, speed: float = 1.0) -> Floats:
        """The expected curve of a method towards 1 at each cost: the mean over the distribution of rates."""
        places = (np.arange(500) + 0.5) / 500
        rates = stdtrit(3, places) / np.sqrt(3) if self.heavy else ndtri(places)
        return np.asarray(
            1 - np.exp(-cost[:, None] * speed / _SCALE * np.exp(self.rate * rates)).mean(axis=1)
        )

    @cached_property
    def final_difference(self) -> float:
        """The true difference of final values."""
        end = self.cost[-1:]
        return float((self.plateau * self.expected(end, self.speed) - self.gain * self.expected(end))[0])

    def speed_up(self, span: Span) -> float:
        """The true speed-up of expected curves drawn without gaps; 0 where the first method never gets through."""
        cost = np.linspace(0, 20 * self.budget, 4001) / max(self.speed, 1.0)
        baseline = self.gain * self.expected(cost)
        targets = np.linspace(*span, 100) * self.gain * float(self.expected(self.cost[-1:])[0])
        if targets[-1] >= self.plateau:
            return 0.0
        first = self.plateau * self.expected(cost, self.speed)
        logs = np.log(np.interp(targets, baseline, cost) / np.interp(targets, first, cost))
        return float(np.exp(logs.mean()))


@dataclass(frozen=True, eq=False)
class Speeds:
    """`speed_up` of many benchmarks at once, arrays (repetitions,): see `speeds`."""

    log: Floats
    error: Floats
    freedom: Floats
    reached: Flags
    arrives: Flags

    def limits(self, confidence: float = 0.95, comparisons: int = 1) -> tuple[Floats, Floats]:
        """Lower and upper limits."""
        width = student.ppf(1 - (1 - confidence) / comparisons / 2, self.freedom) * self.error
        return np.where(self.arrives, np.exp(self.log - width), 0.0), np.exp(self.log + width)

    def decided(self, confidence: float = 0.95, comparisons: int = 1) -> Flags:
        """Whether the method is found faster or slower."""
        low, high = self.limits(confidence, comparisons)
        return np.asarray((low > 1) | (high < 1))


def speeds(cost: Floats, first: Floats, baseline: Floats, span: Span) -> Speeds:
    """`speed_up` written a second time, for many benchmarks at once: values are (repetitions, seeds, evaluations).

    A curve is made to rise by the formula of least maxima and greatest minima of its partial means. That the
    interval is the one of `speed_up` is tested.
    """
    ours, theirs = _without_each(first), _without_each(baseline)
    start, end = theirs[..., :1], theirs[..., -1:]
    shares = np.linspace(span.low, span.high, max(round(40 * (span.high - span.low)), 1))
    targets = start + shares * (end - start)
    base, _ = _log_costs(cost, theirs, targets)
    own, own_reached = _log_costs(cost, ours, targets[:, :1])
    other, other_reached = _log_costs(cost, ours[:, :1], targets)
    logs = [base[:, :1] - own, (base - other)[:, 1:]]
    top = ours.max(axis=-1)
    margins = [top - targets[:, :1, -1], (top[:, :1] - targets[..., -1])[:, 1:]]
    variances = [_jackknife(logs[0][:, 1:]), _jackknife(logs[1])]
    spreads = [_jackknife(margins[0][:, 1:]), _jackknife(margins[1])]
    seeds = first.shape[1], baseline.shape[1]
    clear = student.ppf(0.9, _freedom(spreads, seeds)) * np.sqrt(sum(spreads))
    reached = own_reached.all(axis=1) & other_reached.all(axis=1) & (end > start)[..., 0].all(axis=1)
    return Speeds(
        log=logs[0][:, 0],
        error=np.sqrt(sum(variances)),
        freedom=_freedom(variances, seeds),
        reached=own_reached[:, 0],
        arrives=reached & (margins[0][:, 0] > clear),
    )


def _without_each(values: Floats) -> Floats:
    """Mean curves of all seeds and without each of them, (repetitions, 1 + seeds, evaluations)."""
    total, seeds = values.sum(axis=1, keepdims=True), values.shape[1]
    return np.concatenate([total / seeds, (total - values) / (seeds - 1)], axis=1)


def _log_costs(cost: Floats, means: Floats, targets: Floats) -> tuple[Floats, Flags]:
    """Mean log cost of the targets (..., targets) on mean curves (..., evaluations), and whether all are reached."""
    top = means.argmax(axis=-1)[..., None]
    places = np.arange(len(cost))
    sums = np.concatenate([np.zeros_like(means[..., :1]), means.cumsum(axis=-1)], axis=-1)
    counts = places[None, :] - places[:, None] + 1
    parts = (sums[..., None, 1:] - sums[..., :-1, None]) / np.maximum(counts, 1)
    parts = np.where((counts > 0) & (places <= top[..., None]), parts, np.inf)
    least = np.minimum.accumulate(parts[..., ::-1], axis=-1)[..., ::-1]
    rising = np.where(places[:, None] <= places, least, -np.inf).max(axis=-2)
    rising = np.where(places <= top, rising, means.max(axis=-1, keepdims=True))
    shape = np.broadcast_shapes(rising.shape[:-1], targets.shape[:-1])
    rising = np.broadcast_to(rising, (*shape, len(cost)))
    place = (rising[..., None, :] < targets[..., :, None]).sum(axis=-1)
    after = np.clip(place, 1, np.maximum(top, 1))
    low, high = (np.take_along_axis(rising, after - shift, axis=-1) for shift in (1, 0))
    share = np.clip(np.divide(targets - low, high - low, out=np.zeros(place.shape), where=high > low), 0, 1)
    reached = (place <= top) & (top > 0)
    at = np.where(reached, cost[after - 1] + share * (cost[after] - cost[after - 1]), cost[-1])
    return np.log(np.maximum(at, 1e-9 * cost[-1])).mean(axis=-1), reached.all(axis=-1)


def _jackknife(without_each: Floats) -> Floats:
    return np.asarray((without_each.shape[1] - 1) * without_each.var(axis=1))


def _freedom(variances: Sequence[Floats], seeds: Sequence[int]) -> Floats:
    errors = [part**2 * (2 / (n - 1) + 0.5 / n) for part, n in zip(variances, seeds, strict=True)]
    with np.errstate(invalid="ignore"):  # where nothing varies, as a margin above a start that all share
        return np.asarray(2 * sum(variances) ** 2 / sum(errors))


@dataclass(frozen=True, eq=False)
class Decisions:
    """What `analysis.answer` decides when speed is asked about: arrays over benchmarks, and the methods last.

    `decided`: whether each method but the last, the baseline, is found faster or slower, (repetitions, methods).
    `asked`: whether the baseline is shown to gain, without which no method is. `claims`: whether the
    answer claims any difference, of speed or of final values.
    """

    asked: Flags
    decided: Flags
    claims: Flags


def decide(
    cost: Floats, values: Floats, confidence: float = 0.95, methods: Sequence[Speeds] | None = None
) -> Decisions:
    """Decisions from curves (repetitions, methods, seeds, evaluations), the baseline last.

    A difference of final values counts where the primary question is decided for some method, which is a claim
    already, or is not asked.
    """
    *others, baseline = np.moveaxis(values, 1, 0)
    ends = baseline[..., -1] - baseline[..., 0]
    asked = ends.mean(axis=1) > half_width(ends.std(axis=1, ddof=1), ends.shape[1])
    found = methods or [speeds(cost, each, baseline, SPANS[WHOLE]) for each in others]
    decided = np.stack([entry.decided(confidence, len(others)) for entry in found], axis=1) & asked[:, None]
    claims = decided.any(axis=1)
    for place in np.flatnonzero(~asked):
        claims[place] = finals_differ(values[place])
    return Decisions(asked, decided, claims)


def finals_differ(values: Floats) -> bool:
    """Whether any two methods differ in final values; values are (methods, seeds, evaluations)."""
    pairs = pairwise_differences({str(place): each[:, -1] for place, each in enumerate(values)})
    return any(entry.distinct for entry in pairs)


def alarms(world: World, methods: int, repetitions: int, rng: np.random.Generator) -> dict[str, float]:
    """How often benchmarks claim a difference of speed, any difference, and have a baseline of no shown gain."""
    made = decide(world.cost, world.curves(rng, repetitions, methods))
    return {
        "speed": float(made.decided.any(axis=1).mean()),
        "answer": float(made.claims.mean()),
        "not asked": float(1 - made.asked.mean()),
    }


def final_alarms(world: World, methods: int, repetitions: int, rng: np.random.Generator) -> dict[str, float]:
    """How often any pair of methods differs in final values, were that the primary question."""
    drawn = world.curves(rng, repetitions, methods)
    return {"final values": float(np.mean([finals_differ(values) for values in drawn]))}


def sequential(
    world: World, methods: int, repetitions: int, rng: np.random.Generator, looks: Sequence[int] = LOOKS
) -> dict[str, float]:
    """How often benchmarks to which seeds are added claim something at any look, and the seeds they take.

    Seeds are added until every method is decided about or the last look is made. `at 95 %` is what looks that
    are not corrected for each other would claim.
    """
    values = replace(world, seeds=looks[-1]).curves(rng, repetitions, methods)
    claims, naive, decided = [], [], []
    for seeds, level in zip(looks, look_confidences(looks), strict=True):
        here = values[:, :, :seeds]
        found = [speeds(world.cost, here[:, k], here[:, -1], SPANS[WHOLE]) for k in range(methods - 1)]
        made = decide(world.cost, here, level, found)
        claims.append(made.claims)
        decided.append(made.decided.all(axis=1))
        naive.append(decide(world.cost, here, 0.95, found).claims)
    stop = np.where(np.any(decided, axis=0), np.argmax(decided, axis=0), len(looks) - 1)
    return {
        "answer": float(np.any(claims, axis=0).mean()),
        "all decided": float(np.any(decided, axis=0).mean()),
        "at 95 %": float(np.any(naive, axis=0).mean()),
        "seeds": float(np.array(looks)[stop].mean()),
    }


@dataclass(frozen=True)
class Coverage:
    """How often intervals held the truth and how often they excluded "no difference".

    `open` is the share of speed-ups of which only one side is bounded; `width` the median of log(high / low) over the
    others, or of high - low for a difference. `bias` is the median of value / truth, or of value - truth.
    """

    quantity: str
    seeds: int
    repetitions: int
    held: float
    found: float
    open: float = 0.0
    width: float = float("nan")
    bias: float = float("nan")


def speed_coverage(
    world: World, repetitions: int, rng: np.random.Generator, spans: Sequence[str] = (WHOLE,)
) -> dict[str, Coverage]:
    """Coverage of the true speed-up over each span by two methods' intervals."""
    first, baseline = np.moveaxis(world.curves(rng, repetitions), 1, 0)
    found = {}
    for name in spans:
        made, truth = speeds(world.cost, first, baseline, SPANS[name]), world.speed_up(SPANS[name])
        low, high = made.limits()
        width = np.log(high[made.arrives] / low[made.arrives])
        value = np.where(made.reached, np.exp(made.log), 0.0)
        found[name] = Coverage(
            name,
            world.seeds,
            repetitions,
            held=float(((low <= truth) & (truth <= high)).mean()),
            found=float(made.decided().mean()),
            open=float(1 - made.arrives.mean()),
            width=float(np.median(width)) if width.size else float("nan"),
            bias=float(np.median(value)) / truth if truth else float("nan"),
        )
    return found


def final_coverage(world: World, repetitions: int, rng: np.random.Generator) -> Coverage:
    """Coverage of the true difference of final values by Welch's interval."""
    truth = world.final_difference
    first, baseline = np.moveaxis(world.curves(rng, repetitions)[..., -1], 1, 0)
    low, high = stats.ttest_ind(first, baseline, axis=1, equal_var=False).confidence_interval()
    return Coverage(
        "final values",
        world.seeds,
        repetitions,
        held=float(((low <= truth) & (truth <= high)).mean()),
        found=float(((low > 0) | (high < 0)).mean()),
        width=float(np.median(high - low)),
        bias=float(np.median(first.mean(axis=1) - baseline.mean(axis=1))) - truth,
    )


def prompt_coverage(
    seeds: int, repetitions: int, rng: np.random.Generator, *, prompts: int = 16, deviation: float = 0.1
) -> dict[str, float]:
    """How often the interval over seeds holds a difference over all prompts, of which these are a sample.

    A value is a seed's part (standard deviation 0.03), the prompt's part, by which the methods differ
    (`deviation`), and noise (0.1).
    """
    held = []
    for _ in range(repetitions):
        values = rng.normal(0, 0.03, (2, seeds, 1)) + rng.normal(0, 0.1, (2, seeds, prompts))
        values += rng.normal(0, deviation / np.sqrt(2), (2, 1, prompts))
        held.append(not welch_difference(*values.mean(axis=2)).excludes_zero)
    return {"over seeds": float(np.mean(held))}


def pooled_coverage(
    runs: int, repetitions: int, rng: np.random.Generator, between: float = 0.2
) -> dict[str, float]:
    """How often the pooled interval, and one that weighs runs by their errors alone, hold the mean over runs."""
    held: dict[str, list[bool]] = {"pooled": [], "errors alone": []}
    for _ in range(repetitions):
        errors = rng.uniform(0.05, 0.3, runs)
        effects = rng.normal(0, between, runs) + rng.normal(0, errors)
        held["pooled"].append(not pooled(list(effects), list(errors)).mean.excludes_zero)
        weights = errors**-2 / (errors**-2).sum()
        held["errors alone"].append(abs(weights @ effects) < 1.96 / np.sqrt((errors**-2).sum()))
    return {name: float(np.mean(entries)) for name, entries in held.items()}


def planned_power(
    world: World, repetitions: int, rng: np.random.Generator, power: float = 0.8
) -> dict[str, float]:
    """Seeds that `seeds_needed` asks for from the true spread, and the power that so many turn out to have."""
    ((first, baseline),) = replace(world, seeds=400).curves(rng)
    spreads = speed_up(world.cost, first, world.cost, baseline, SPANS[WHOLE]).spread
    seeds = seeds_needed(world.speed, float(np.sqrt(np.mean(np.square(spreads)))), power=power)
    assert seeds is not None
    found = speed_coverage(replace(world, seeds=seeds), repetitions, rng)[WHOLE].found
    return {"seeds": seeds, "asked": power, "found": found}


WORLDS: Mapping[str, World] = {
    "default": World(),
    "twice the evaluation noise": World(noise=0.1),
    "heavy-tailed seeds": World(heavy=True),
    "twice the spread over seeds": World(level=0.3, rate=0.4),
    "equal seeds share 60 % of the variance": World(shared=0.6),
}
FLAT = {
    "no method gains": World(speed=1.0, plateau=0.0, gain=0.0),
    "the baseline does not gain, the other does": World(speed=1.0, gain=0.0),
}
PLATEAU = World(plateau=0.7)


def sections(repetitions: int, seed: int) -> dict[str, Callable[[], str]]:
    """The tables of docs/statistics.md, each with random numbers of its own: title -> what makes it."""
    found: dict[str, Callable[[], str]] = {}

    def add(title: str, make: Callable[[np.random.Generator], str]) -> None:
        rng = np.random.default_rng([seed, len(found)])
        found[title] = lambda: make(rng)

    def covered(world: World, names: Sequence[str]) -> Callable[[np.random.Generator], str]:
        def make(rng: np.random.Generator) -> str:
            rows = []
            for here in (replace(world, seeds=n) for n in SEEDS):
                rows += [final_coverage(here, repetitions, rng)] if WHOLE in names else []
                rows += speed_coverage(here, repetitions, rng, names).values()
            return _coverage_table(rows)

        return make

    def claimed(world: World, counts: Sequence[int] = (2, 3)) -> Callable[[np.random.Generator], str]:
        cases = [(methods, n) for methods in counts for n in SEEDS]
        return lambda rng: _lines(
            [
                (f"{m} methods, {n} seeds", alarms(replace(world, seeds=n), m, repetitions, rng))
                for m, n in cases
            ]
        )

    def by_seeds(measure: Callable[[int, np.random.Generator], Mapping[str, float]]) -> Callable:
        return lambda rng: _lines([(f"{n} seeds", measure(n, rng)) for n in SEEDS])

    for name, world in WORLDS.items():
        add(f"Coverage, 1.66 times faster, {name}", covered(world, [WHOLE]))
        add(f"Coverage, copies, {name}", covered(replace(world, speed=1.0), [WHOLE]))
        add(f"Claims, copies, {name}", claimed(replace(world, speed=1.0)))
    narrow = [name for name in SPANS if name != WHOLE]
    add("Coverage of narrower spans, 1.66 times faster, default", covered(World(), narrow))
    add("Coverage, never gets through (plateau 0.7)", covered(PLATEAU, list(SPANS)))
    add("Coverage, never gets through, as fast", covered(replace(PLATEAU, speed=1.0), [WHOLE]))
    for name, world in FLAT.items():
        add(f"Claims, {name}", claimed(world, (2,)))

    def looked(world: World) -> Callable[[np.random.Generator], str]:
        return lambda rng: _lines([(f"{m} methods", sequential(world, m, repetitions, rng)) for m in (2, 3)])

    add(f"Looks at {LOOKS} seeds, copies", looked(World(speed=1.0)))
    add(f"Looks at {LOOKS} seeds, 1.66 times faster", looked(World()))
    copies = World(speed=1.0)
    add(
        "Claims, copies, final values asked about, 3 methods",
        by_seeds(lambda n, rng: final_alarms(replace(copies, seeds=n), 3, repetitions, rng)),
    )
    add("Coverage, prompts are a sample of 16", by_seeds(lambda n, rng: prompt_coverage(n, repetitions, rng)))
    add(
        "Coverage, prompts do not matter",
        by_seeds(lambda n, rng: prompt_coverage(n, repetitions, rng, deviation=0.0)),
    )
    add(
        "Coverage, pooled over runs",
        lambda rng: _lines([(f"{n} runs", pooled_coverage(n, repetitions, rng)) for n in (2, 3, 5, 10)]),
    )
    add(
        "Planned power",
        lambda rng: _lines(
            [(f"speed {s:g}", planned_power(World(speed=s), repetitions, rng)) for s in (1.25, 1.4, 1.66)]
        ),
    )
    return found


def _coverage_table(rows: Sequence[Coverage]) -> str:
    lines = [
        "| quantity | seeds | holds the truth | difference found | one side open | median width | bias |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.quantity} | {row.seeds} | {row.held:.1%} | {row.found:.1%} | {row.open:.1%} | {row.width:.2f} | "
        f"{row.bias:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _lines(entries: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    return "\n".join(
        f"- {label}: "
        + ", ".join(
            f"{name} {value:.1f}" if name == "seeds" else f"{name} {value:.1%}"
            for name, value in shares.items()
        )
        for label, shares in entries
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: simulate and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.analysis.simulation",
        description="Measure on simulated learning curves how often intervals hold and answers are right.",
    )
    parser.add_argument("--repetitions", type=int, default=2000, help="benchmarks simulated (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")
    parser.add_argument("--only", default="", help="only tables whose title holds this text")
    options = parser.parse_args(arguments)
    if options.repetitions < 2:
        parser.error(f"--repetitions must be 2 or more, not {options.repetitions}")
    for title, make in sections(options.repetitions, options.seed).items():
        if options.only in title:
            sys.stdout.write(f"\n### {title}\n\n{make()}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
