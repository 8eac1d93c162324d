"""Learning curves whose speed-up is known, and how often the intervals of this package hold on them.

`python -m analysis.statistics.simulation` prints the tables of docs/statistics.md; the tests run parts of it.

A seed of a method learns as level x (1 - exp(-speed x rate x cost / 20)): level and rate differ from seed to
seed, every evaluation adds noise, and the first method's cost axis is stretched by its speed. The base
model's evaluation is shared and so the same for all. The defaults resemble what the testbed shows: final
values differ over seeds by about a sixth of the gain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from analysis.statistics.estimates import Estimate, bootstrap, bootstrap_prompts
from analysis.statistics.intervals import (
    Interval,
    holm,
    p_value,
    paired_difference,
    pairwise_differences,
    welch_difference,
)
from analysis.statistics.metrics import area_under_curve, final_value
from analysis.statistics.planning import power_of
from analysis.statistics.rivals import bias_corrected, expanded, jackknife, seed_by_seed
from analysis.statistics.speed import log_cost_spread, speed_up

Floats = NDArray[np.float64]

SEEDS = (3, 5, 10)

_SCALE = 20.0  # cost at which a method of speed 1 has learnt 63 % of its level


@dataclass(frozen=True)
class World:
    """How two methods learn. `speed` is the first's over the baseline's: the true speed-up.

    `level`, `rate` and `noise` are standard deviations: of a seed's gain, of the log of its rate, and of one
    evaluation. `shared` is the part of the variance of each that runs of equal seed have in common.
    `heavy` draws level and rate from Student's t with 3 degrees of freedom, scaled to the same deviation.
    `target` is the part of the baseline's expected final value that is to be reached.
    """

    seeds: int = 5
    speed: float = 1.66
    evaluations: int = 13
    budget: float = 60.0
    level: float = 0.15
    rate: float = 0.2
    noise: float = 0.05
    shared: float = 0.0
    heavy: bool = False
    target: float = 0.8

    @cached_property
    def cost(self) -> Floats:
        """Costs of the evaluations, (evaluations,), 0 first."""
        return np.linspace(0, self.budget, self.evaluations)

    def curves(self, rng: np.random.Generator, methods: int = 2) -> Floats:
        """Values (methods, seeds, evaluations): the first at `speed`, all others at speed 1."""
        level, rate = self._draw(rng, (methods, self.seeds, 2))[..., None, :].transpose(3, 0, 1, 2)
        speed = np.array([self.speed, *[1.0] * (methods - 1)])[:, None, None]
        learnt = 1 - np.exp(-self.cost * speed / _SCALE * np.exp(self.rate * rate))
        normal = replace(self, heavy=False)
        noise = self.noise * normal._draw(rng, (methods, self.seeds, self.evaluations))
        noise[..., 0] = 0
        return (1 + self.level * level) * learnt + noise

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Standard deviates, of which runs of equal seed (axis 1) share a part over methods (axis 0)."""
        common, own = self._standard(rng, (1, *shape[1:])), self._standard(rng, shape)
        return np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own

    def _standard(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        return rng.standard_t(3, shape) / np.sqrt(3) if self.heavy else rng.normal(size=shape)

    def expected(self, speed: float) -> Floats:
        """The expected curve of a method, (evaluations,): the mean over the distribution of rates."""
        places = (np.arange(4000) + 0.5) / 4000
        rates = stdtrit(3, places) / np.sqrt(3) if self.heavy else ndtri(places)
        exponent = -self.cost[:, None] * speed / _SCALE * np.exp(self.rate * rates)
        return np.asarray(1 - np.exp(exponent).mean(axis=1))

    @cached_property
    def truth(self) -> Mapping[str, float]:
        """True differences of final value and of area, and the true speed-up."""
        first, baseline = self.expected(self.speed), self.expected(1.0)
        area = area_under_curve(self.cost, np.stack([first, baseline]))
        return {
            "final value": float(first[-1] - baseline[-1]),
            "area": float(area[0] - area[1]),
            "speed-up": self.speed,
        }

    @cached_property
    def height(self) -> float:
        """The value to reach."""
        return self.target * float(self.expected(1.0)[-1])


@dataclass(frozen=True)
class Coverage:
    """How often intervals of a quantity held its true value, and how often they excluded "no difference".

    `open` is the share of intervals with an infinite or zero limit, `width` the median of high - low, for a
    speed-up of log(high / low), over those that are not.
    """

    quantity: str
    construction: str
    seeds: int
    repetitions: int
    held: float
    told_apart: float
    open: float
    width: float


Maker = Callable[[World, Floats, Floats, np.random.Generator], Interval | Estimate]
"""Makes an interval from the curves (seeds, evaluations) of the first method and of the baseline."""


def welch_final(world: World, first: Floats, baseline: Floats, rng: np.random.Generator) -> Interval:
    """Welch's interval of the difference of final values."""
    del world, rng
    return welch_difference(final_value(first), final_value(baseline))


def paired_final(world: World, first: Floats, baseline: Floats, rng: np.random.Generator) -> Interval:
    """Student's interval of the difference of final values of equal seeds."""
    del world, rng
    return paired_difference(final_value(first), final_value(baseline))


def welch_area(world: World, first: Floats, baseline: Floats, rng: np.random.Generator) -> Interval:
    """Welch's interval of the difference of areas under the curve."""
    del rng
    return welch_difference(area_under_curve(world.cost, first), area_under_curve(world.cost, baseline))


def bootstrap_final(world: World, first: Floats, baseline: Floats, rng: np.random.Generator) -> Estimate:
    """Percentile bootstrap of the difference of final values."""
    del world
    return bootstrap(_difference, final_value(first), final_value(baseline), rng=rng, resamples=1000)


def speed(world: World, first: Floats, baseline: Floats, rng: np.random.Generator) -> Estimate:
    """The speed-up as `speed_up` gives it by default."""
    return speed_up(world.cost, first, world.cost, baseline, world.height, rng)


def speed_to_own_target(
    world: World, first: Floats, baseline: Floats, rng: np.random.Generator
) -> Interval | Estimate:
    """The speed-up to a part of the baseline's own mean gain, as a report chooses its target."""
    target = world.target * float(baseline[:, -1].mean())
    if target <= 0:
        return Interval(float("nan"), 0.0, float("inf"), world.seeds)  # no gain, no target
    return speed_up(world.cost, first, world.cost, baseline, target, rng)


def paired_speed(world: World, first: Floats, baseline: Floats, rng: np.random.Generator) -> Estimate:
    """The speed-up, seeds paired."""
    return speed_up(world.cost, first, world.cost, baseline, world.height, rng, paired=True)


def bootstrap_speed(world: World, first: Floats, baseline: Floats, rng: np.random.Generator) -> Estimate:
    """Percentile bootstrap of the speed-up."""
    arguments = (world.cost, first, world.cost, baseline, world.height, rng)
    return speed_up(*arguments, method="bootstrap", resamples=200)


def rival(make: Callable[..., tuple[float, float]]) -> Maker:
    """A construction of `rivals` as a maker."""

    def maker(world: World, first: Floats, baseline: Floats, rng: np.random.Generator) -> Interval:
        low, high = make(world.cost, first, baseline, world.height, rng)
        return Interval(float("nan"), low, high, world.seeds)

    return maker


def _difference(one: Floats, other: Floats, axis: int = 0) -> Floats:
    return np.asarray(one.mean(axis=axis) - other.mean(axis=axis))


STUDENT: Mapping[tuple[str, str], Maker] = {
    ("final value", "Welch"): welch_final,
    ("area", "Welch"): welch_area,
    ("speed-up", "shift"): speed,
}
OWN_TARGET: Mapping[tuple[str, str], Maker] = {
    ("speed-up", "shift, target from the data"): speed_to_own_target
}
PAIRED: Mapping[tuple[str, str], Maker] = {
    ("final value", "Welch"): welch_final,
    ("final value", "paired"): paired_final,
    ("speed-up", "shift"): speed,
    ("speed-up", "shift, paired"): paired_speed,
}
BOOTSTRAPS: Mapping[tuple[str, str], Maker] = {
    ("final value", "percentile bootstrap"): bootstrap_final,
    ("speed-up", "percentile bootstrap"): bootstrap_speed,
}
RIVALS: Mapping[tuple[str, str], Maker] = {
    ("speed-up", "shift"): speed,
    ("speed-up", "each seed's own first crossing"): rival(seed_by_seed),
    ("speed-up", "jackknife of the mean curve"): rival(jackknife),
}
RIVAL_BOOTSTRAPS: Mapping[tuple[str, str], Maker] = {
    ("speed-up", "BCa bootstrap"): rival(bias_corrected),
    ("speed-up", "expanded percentile bootstrap"): rival(expanded),
}


def coverage(
    world: World, makers: Mapping[tuple[str, str], Maker], repetitions: int, rng: np.random.Generator
) -> list[Coverage]:
    """Repeat a benchmark of two methods and count how often each interval holds the truth."""
    limits: dict[tuple[str, str], list[tuple[float, float]]] = {name: [] for name in makers}
    for _ in range(repetitions):
        first, baseline = world.curves(rng)
        for name, make in makers.items():
            interval = make(world, first, baseline, rng)
            limits[name].append((interval.low, interval.high))
    return [_row(world, name, np.array(pairs)) for name, pairs in limits.items()]


def _row(world: World, name: tuple[str, str], limits: Floats) -> Coverage:
    low, high = limits.T
    ratio = name[0] == "speed-up"
    truth, null = world.truth[name[0]], 1.0 if ratio else 0.0
    closed = np.isfinite(high) & ((low > 0) if ratio else np.isfinite(low))
    width = np.log(high[closed] / low[closed]) if ratio else (high - low)[closed]
    return Coverage(
        *name,
        seeds=world.seeds,
        repetitions=len(limits),
        held=float(((low <= truth) & (truth <= high)).mean()),
        told_apart=float(((low > null) | (high < null)).mean()),
        open=float(1 - closed.mean()),
        width=float(np.median(width)) if closed.any() else float("nan"),
    )


def family_alarms(world: World, repetitions: int, rng: np.random.Generator) -> dict[str, float]:
    """How often three copies of one method give any difference: by interval, by Holm, by speed-up."""
    copies = replace(world, speed=1.0)
    alarms: dict[str, list[bool]] = {"Bonferroni": [], "Holm": [], "speed-up": [], "uncorrected": []}
    for _ in range(repetitions):
        values = copies.curves(rng, methods=3)
        finals = [final_value(each) for each in values]
        pairs = pairwise_differences(dict(zip("abc", finals, strict=True)))
        alarms["Bonferroni"].append(any(pair.distinct for pair in pairs))
        raw = np.array([p_value(finals[i], finals[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
        alarms["Holm"].append(bool((holm(raw) < 0.05).any()))
        alarms["uncorrected"].append(bool((raw < 0.05).any()))
        speeds = [
            speed_up(copies.cost, each, copies.cost, values[0], copies.height, rng, comparisons=2)
            for each in values[1:]
        ]
        alarms["speed-up"].append(any(estimate.excludes(1.0) for estimate in speeds))
    return {name: float(np.mean(entries)) for name, entries in alarms.items()}


def prompt_coverage(
    seeds: int, prompts: int, repetitions: int, rng: np.random.Generator, deviation: float = 0.1
) -> dict[str, float]:
    """How often intervals over seeds and prompts, and over seeds alone, hold a difference over all prompts.

    A value is a seed's part (standard deviation 0.03), the prompt's part, by which the methods differ
    (`deviation`), and noise (0.1).
    """
    held: dict[str, list[bool]] = {"over seeds and prompts": [], "over seeds alone": []}
    for _ in range(repetitions):
        values = rng.normal(0, 0.03, (2, seeds, 1)) + rng.normal(0, 0.1, (2, seeds, prompts))
        values += rng.normal(0, deviation / np.sqrt(2), (2, 1, prompts))
        both = bootstrap_prompts(*values, rng=rng, resamples=500)
        alone = welch_difference(*values.mean(axis=2))
        held["over seeds and prompts"].append(both.low <= 0 <= both.high)
        held["over seeds alone"].append(alone.low <= 0 <= alone.high)
    return {name: float(np.mean(entries)) for name, entries in held.items()}


def planned_power(world: World, repetitions: int, rng: np.random.Generator) -> dict[str, float]:
    """Power that `power_of` predicts from the true spread, and the share of benchmarks that told apart."""
    many = replace(world, seeds=4000).curves(rng)
    spreads = [log_cost_spread(world.cost, values, world.height) for values in many]
    (row,) = coverage(world, {("speed-up", "shift"): speed}, repetitions, rng)
    return {"predicted": power_of(world.speed, world.seeds, *spreads), "found": row.told_apart}


def _table(rows: Sequence[Coverage]) -> str:
    lines = [
        "| quantity | interval | seeds | holds the truth | told apart | one side open | median width |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.quantity} | {row.construction} | {row.seeds} | {row.held:.1%} | {row.told_apart:.1%} | "
        f"{row.open:.1%} | {row.width:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _section(title: str, text: str) -> None:
    sys.stdout.write(f"\n### {title}\n\n{text}\n")
    sys.stdout.flush()


def report(repetitions: int, rng: np.random.Generator) -> None:
    """Write the tables of docs/statistics.md to standard output."""
    worlds: Sequence[tuple[str, World, Mapping[tuple[str, str], Maker]]] = (
        ("A speed-up by 1.66", World(), STUDENT),
        ("Two copies of one method", World(speed=1.0), STUDENT),
        ("Twice the evaluation noise", World(noise=0.1), STUDENT),
        ("Heavy-tailed seeds", World(heavy=True), STUDENT),
        ("A target near the end (0.95)", World(target=0.95), STUDENT),
        ("The target is 0.75 of the baseline's own end", World(target=0.75), OWN_TARGET),
        ("The target is the baseline's own end", World(target=1 - 1e-9), OWN_TARGET),
        ("Equal seeds share 60 % of the variance", World(shared=0.6), PAIRED),
    )
    for title, world, makers in worlds:
        rows = [row for n in SEEDS for row in coverage(replace(world, seeds=n), makers, repetitions, rng)]
        _section(title, _table(rows))
    few = max(repetitions // 5, 1)  # bootstraps take long
    rows = [row for n in SEEDS for row in coverage(World(seeds=n), BOOTSTRAPS, few, rng)]
    _section(f"Bootstraps, a speed-up by 1.66, {few} repetitions", _table(rows))
    every = {**RIVALS, **RIVAL_BOOTSTRAPS}
    rows = [row for n in SEEDS for row in coverage(World(seeds=n, noise=0.1), every, few, rng)]
    _section(f"Rivals, twice the evaluation noise, {few} repetitions", _table(rows))
    far = World(target=0.95, speed=2.5)
    rows = [row for n in SEEDS for row in coverage(replace(far, seeds=n), RIVALS, repetitions, rng)]
    _section("Rivals, a target near the end (0.95), a speed-up by 2.5", _table(rows))
    lines = [(n, family_alarms(World(seeds=n), repetitions, rng)) for n in SEEDS]
    _section("Three copies of one method: any difference found", _lines(lines))
    for title, deviation in (("Prompts are a sample of 16", 0.1), ("The same, prompts do not matter", 0.0)):
        lines = [(n, prompt_coverage(n, 16, repetitions, rng, deviation)) for n in SEEDS]
        _section(title, _lines(lines))
    lines = [(n, planned_power(World(seeds=n), repetitions, rng)) for n in SEEDS]
    _section("Power to show a speed-up by 1.66", _lines(lines))


def _lines(entries: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    return "\n".join(
        f"- {seeds} seeds: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        for seeds, shares in entries
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: simulate and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.statistics.simulation",
        description="Measure on simulated learning curves how often the intervals hold.",
    )
    parser.add_argument("--repetitions", type=int, default=2000, help="benchmarks simulated (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")
    options = parser.parse_args(arguments)
    if options.repetitions < 1:
        parser.error(f"--repetitions must be 1 or more, not {options.repetitions}")
    report(options.repetitions, np.random.default_rng(options.seed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
