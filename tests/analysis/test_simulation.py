"""What answers and intervals promise, on simulated benchmarks with a known answer. Longer runs: docs/statistics.md.

A bound is the promise and three binomial standard errors: a right implementation fails one in several hundred seeds,
and the seeds are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.answer import answer
from analysis.convergence import SPANS, UNDECIDED, WHOLE, convergence
from analysis.records import load_run
from analysis.statistics.sequential import look_confidences
from analysis.statistics.speed import speed_up
from tests.analysis import simulation as sim
from tests.analysis.synthetic import Plan, write_run

REPETITIONS = 500
METHODS = ("a", "b", "flow_grpo")
COPIES = {name: replace(world, speed=1.0) for name, world in sim.WORLDS.items()}


def error(share: float, repetitions: int = REPETITIONS) -> float:
    """Three standard errors of a share."""
    return 3 * math.sqrt(share * (1 - share) / repetitions)


def generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng([7, *numbers])


@pytest.mark.parametrize("heavy", [False, True])
def test_the_simulated_truth_is_the_mean_of_many_seeds(heavy: bool) -> None:
    world = sim.World(seeds=20_000, heavy=heavy, plateau=0.9)
    ((first, baseline),) = world.curves(generator(0)).mean(axis=2)
    assert first == pytest.approx(0.9 * world.expected(world.cost, world.speed), abs=0.006)
    assert baseline == pytest.approx(world.expected(world.cost), abs=0.006)
    assert world.final_difference == pytest.approx(first[-1] - baseline[-1], abs=0.008)


def test_the_true_speed_up_is_the_stretch_or_what_dense_curves_show() -> None:
    assert sim.World().speed_up(SPANS[WHOLE]) == pytest.approx(1.66, rel=1e-3)
    assert sim.PLATEAU.speed_up(SPANS[WHOLE]) == 0
    lower = replace(sim.World(level=1e-6, rate=1e-6, noise=0, plateau=0.95), evaluations=401, seeds=2)
    first, baseline = np.moveaxis(lower.curves(generator(1)), 1, 0)
    drawn = sim.speeds(lower.cost, first, baseline, SPANS["around 50 %"])
    assert np.exp(drawn.log) == pytest.approx(lower.speed_up(SPANS["around 50 %"]), rel=1e-3)


def test_shared_seeds_share_and_deviate_as_they_say() -> None:
    world = sim.World(seeds=5000, shared=0.6, speed=1.0)
    ((first, baseline),) = world.curves(generator(1))
    assert np.corrcoef(first[:, -1], baseline[:, -1])[0, 1] == pytest.approx(0.6, abs=0.04)
    alone = replace(world, shared=0.0).curves(generator(1))
    assert first[:, -1].std() == pytest.approx(alone[0, 0, :, -1].std(), rel=0.04)


@pytest.mark.parametrize(
    "world",
    [
        sim.World(seeds=3),
        sim.World(seeds=5, plateau=0.7, noise=0.1, level=0.3, rate=0.4),
        sim.World(seeds=4, gain=0.5, speed=0.6),
    ],
)
def test_the_simulated_speed_up_is_the_one_of_the_analysis(world: sim.World) -> None:
    """Two implementations, one with the library's isotonic regression and one without, agree."""
    drawn = world.curves(generator(2), 25)
    for span in SPANS.values():
        made = sim.speeds(world.cost, drawn[:, 0], drawn[:, 1], span)
        low, high = made.limits(0.99, 2)
        for place, (first, baseline) in enumerate(drawn):
            one = speed_up(world.cost, first, world.cost, baseline, span, confidence=0.99, comparisons=2)
            assert one.value == pytest.approx(math.exp(made.log[place]) if made.reached[place] else 0.0)
            assert one.low == pytest.approx(low[place], rel=1e-6)
            assert one.high == pytest.approx(high[place], rel=1e-6) or high[place] > 1e6


@pytest.mark.parametrize("methods", [2, 3])
@pytest.mark.parametrize("name", COPIES)
def test_answers_about_copies_of_one_method_claim_nothing(name: str, methods: int) -> None:
    for seeds in sim.SEEDS:
        found = sim.alarms(
            replace(COPIES[name], seeds=seeds), methods, REPETITIONS, generator(methods, seeds)
        )
        assert found["answer"] < 0.06 + error(0.06), f"{seeds} seeds: {found}"
        assert found["speed"] <= found["answer"]


@pytest.mark.parametrize("methods", [2, 3])
def test_looks_at_copies_claim_as_little_as_one_look(methods: int) -> None:
    found = sim.sequential(sim.World(speed=1.0), methods, REPETITIONS, generator(methods))
    assert found["answer"] < 0.06 + error(0.06)
    assert found["at 95 %"] > found["answer"] + 0.02  # what the looks would do if nothing were corrected
    assert found["seeds"] > 19


def test_looks_save_seeds_where_a_difference_is_plain() -> None:
    found = sim.sequential(sim.World(speed=2.5), 2, 300, generator(3))
    assert found["all decided"] > 0.97
    assert found["seeds"] < 9


@pytest.mark.parametrize("speed", [1.0, 1.66])
@pytest.mark.parametrize("name", sim.WORLDS)
def test_intervals_of_the_speed_up_hold(name: str, speed: float) -> None:
    for seeds in sim.SEEDS:
        world = replace(sim.WORLDS[name], seeds=seeds, speed=speed)
        for row in sim.speed_coverage(world, REPETITIONS, generator(seeds), tuple(SPANS)).values():
            assert row.held > 0.94 - error(0.94), row
            assert row.bias == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("speed", [1.0, 1.66])
def test_a_method_that_never_arrives_gets_no_lower_limit(speed: float) -> None:
    """The truth is 0, and an interval holds it only with `low == 0`."""
    for seeds in sim.SEEDS:
        world = replace(sim.PLATEAU, seeds=seeds, speed=speed)
        row = sim.speed_coverage(world, REPETITIONS, generator(seeds))[WHOLE]
        assert row.held > 0.94 - error(0.94), row
        assert row.held == row.open


@pytest.mark.parametrize("seeds", sim.SEEDS)
def test_a_baseline_without_gain_is_no_measure_of_speed(seeds: int) -> None:
    """Where nothing gains hardly anything is claimed at all; where the other method does, that it ends higher."""
    nothing, other = (replace(world, seeds=seeds) for world in sim.FLAT.values())
    for world, methods, repetitions in ((nothing, 2, 400), (nothing, 3, 100), (other, 2, 400)):
        found = sim.alarms(world, methods, repetitions, generator(methods, seeds))
        assert found["speed"] < 0.05
        assert found["not asked"] > 0.975 - error(0.025, repetitions)
        claims = found["answer"]
        assert claims > 0.9 if world is other else claims < 0.05 + error(0.05, repetitions)


@pytest.mark.parametrize(("seeds", "single_target"), [(3, 0.14), (5, 0.33), (10, 0.68)])
def test_the_whole_curve_finds_more_than_a_single_target_did(seeds: int, single_target: float) -> None:
    """A speed-up by 1.66; a single target at 0.8 of the gain, by curves moved by a standard error, found so many."""
    row = sim.speed_coverage(sim.World(seeds=seeds), REPETITIONS, generator(seeds))[WHOLE]
    assert row.found > 1.05 * single_target


@pytest.mark.parametrize("seeds", sim.SEEDS)
def test_welchs_interval_of_final_values_holds(seeds: int) -> None:
    row = sim.final_coverage(sim.World(seeds=seeds), REPETITIONS, generator(seeds))
    assert row.held > 0.95 - error(0.95), row
    assert row.bias == pytest.approx(0, abs=0.03)


def test_planned_seeds_find_about_as_much_as_asked() -> None:
    """The plan is a little hopeful: it knows the spread, and its test is Student's."""
    found = sim.planned_power(sim.World(), REPETITIONS, generator(5))
    assert found["asked"] - 0.12 < found["found"] < found["asked"] + 0.12


def _cases() -> Sequence[tuple[sim.World, float]]:
    """Worlds of every kind of answer, and the confidence of the look."""
    later = look_confidences(sim.LOOKS)[0]
    worlds = [
        sim.World(speed=3.0),
        sim.World(speed=0.3, rate=0.1),
        sim.World(speed=1.0),
        sim.World(plateau=0.4, speed=1.0),
        sim.World(plateau=2.0, gain=0.0),
        sim.World(plateau=0.0, gain=0.0),
    ]
    return [(replace(world, seeds=n), c) for world in worlds for n, c in ((3, 0.95), (5, 0.95), (5, later))]


@pytest.mark.parametrize("place", range(len(_cases())))
def test_records_are_answered_as_the_arrays_are(place: int, tmp_path: Path) -> None:
    """What is simulated is what `analysis.answer` does with the records of a run."""
    world, confidence = _cases()[place]
    values = world.curves(generator(place), methods=3)
    plan = Plan(
        METHODS,
        seeds=world.seeds,
        rewards=("accuracy",),
        iterations=60,
        with_samples=False,
        ledger=False,
        diagnostics=False,
    )
    write_run(tmp_path, plan)
    _evaluations(world, values[0]).to_parquet(tmp_path / "records" / "evaluations.parquet", index=False)
    if confidence != 0.95:
        look = pd.DataFrame({"seeds": [world.seeds], "confidence": [confidence]})
        look.to_csv(tmp_path / "records" / "looks.csv", index=False)
    run = load_run(tmp_path)
    course = convergence(run)
    found, made = answer(run, course), sim.decide(world.cost, values, confidence)
    assert course.baseline == METHODS[-1]
    assert bool(found.speeds) == made.asked[0]
    verdicts = {entry.method: entry.verdict != UNDECIDED for entry in found.speeds}
    assert [verdicts.get(name, False) for name in METHODS[:-1]] == made.decided[0].tolist()
    assert any(entry.distinct for entry in found.differences) == sim.finals_differ(values[0])
    claims = any(verdicts.values()) or " beyond chance" in found.sentence
    # The sentence names what differs from the best, the arrays count every pair.
    assert claims == made.claims[0] or (made.claims[0] and not made.asked[0])
    assert found.decided == (bool(made.asked[0]) and bool(made.decided[0].all()))


def _evaluations(world: sim.World, values: np.ndarray) -> pd.DataFrame:
    rows: list[tuple[str, int, int, float]] = [("base", 0, 0, 0.0)]
    for method, seeds in zip(METHODS, values, strict=True):
        for seed, curve in enumerate(seeds):
            rows += [(method, seed, int(at), v) for at, v in zip(world.cost, curve, strict=True) if at]
    frame = pd.DataFrame(rows, columns=["method", "seed", "iteration", "value"])
    return frame.assign(split="held_out", prompt="a ball", sample=0, reward="accuracy")


def test_the_cases_have_every_kind_of_answer() -> None:
    made = [
        sim.decide(world.cost, world.curves(generator(place), methods=3), confidence)
        for place, (world, confidence) in enumerate(_cases())
    ]
    assert {bool(entry.asked[0]) for entry in made} == {False, True}
    assert {tuple(entry.decided[0].tolist()) for entry in made} >= {(False, False), (True, False)}
    assert {bool(entry.claims[0]) for entry in made if not entry.asked[0]} == {False, True}


def test_the_command_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim.main(["--repetitions", "4", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("###") == len(sim.sections(4, 1))
    assert sim.main(["--repetitions", "4", "--seed", "1", "--only", "pooled"]) == 0
    assert capsys.readouterr().out in printed
    with pytest.raises(SystemExit):
        sim.main(["--repetitions", "1"])
