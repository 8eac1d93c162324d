"""What the intervals promise, on simulated benchmarks with a known answer. Longer runs: docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from analysis.statistics import simulation as sim
from analysis.statistics import speed_up

REPETITIONS = 700
ERROR = math.sqrt(0.05 * 0.95 / REPETITIONS)  # of a share near 95 %: 0.8 %


def rows(
    world: sim.World, makers: Mapping[tuple[str, str], sim.Maker], repetitions: int = REPETITIONS
) -> dict[tuple[str, str], sim.Coverage]:
    rng = np.random.default_rng(world.seeds)
    return {(row.quantity, row.construction): row for row in sim.coverage(world, makers, repetitions, rng)}


def test_the_simulated_truth_is_the_mean_of_many_seeds() -> None:
    for world in (sim.World(seeds=20_000), sim.World(seeds=20_000, heavy=True)):
        means = world.curves(np.random.default_rng(0)).mean(axis=1)
        assert means[0] == pytest.approx(world.expected(world.speed), abs=0.006)
        assert means[1] == pytest.approx(world.expected(1.0), abs=0.006)
        assert world.truth["final value"] == pytest.approx(means[0, -1] - means[1, -1], abs=0.008)


def test_shared_seeds_share_and_deviate_as_they_say() -> None:
    world = sim.World(seeds=5000, shared=0.6, speed=1.0)
    first, baseline = world.curves(np.random.default_rng(1))
    assert np.corrcoef(first[:, -1], baseline[:, -1])[0, 1] == pytest.approx(0.6, abs=0.04)
    alone = replace(world, shared=0.0).curves(np.random.default_rng(1))
    assert first[:, -1].std() == pytest.approx(alone[0, :, -1].std(), rel=0.04)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_students_intervals_hold_in_95_percent(seeds: int) -> None:
    for (quantity, construction), row in rows(sim.World(seeds=seeds), sim.STUDENT).items():
        assert 0.95 - 3.5 * ERROR < row.held < 0.985, f"{quantity}, {construction}: {row.held}"


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_copies_of_one_method_are_told_apart_in_5_percent(seeds: int) -> None:
    for (quantity, construction), row in rows(sim.World(seeds=seeds, speed=1.0), sim.STUDENT).items():
        assert 0.01 < row.told_apart < 0.05 + 3.5 * ERROR, f"{quantity}, {construction}: {row.told_apart}"


@pytest.mark.parametrize(
    ("noise", "heavy", "target"), [(0.1, False, 0.8), (0.05, True, 0.8), (0.05, False, 0.95)]
)
def test_speed_ups_hold_where_curves_are_rough(noise: float, heavy: bool, target: float) -> None:
    """Noisy evaluations, heavy-tailed seeds, and a target that many curves never reach."""
    world = sim.World(seeds=4, noise=noise, heavy=heavy, target=target)
    row = rows(world, {("speed-up", "shift"): sim.speed})["speed-up", "shift"]
    assert row.held > 0.95 - 3.5 * ERROR
    if target > 0.9:
        assert row.open > 0.3


@pytest.mark.parametrize("target", [0.75, 1 - 1e-9])
def test_speed_ups_hold_for_targets_that_the_baseline_sets(target: float) -> None:
    """As in a report. At the baseline's own end there is hardly ever an upper limit, as few shifts reach it."""
    (row,) = rows(sim.World(seeds=4, target=target), sim.OWN_TARGET).values()
    assert row.held > 0.95 - 3.5 * ERROR
    assert (row.open > 0.8) is (target > 0.9)


def test_a_speed_up_that_is_there_is_found_with_ten_seeds() -> None:
    row = rows(sim.World(seeds=10), {("speed-up", "shift"): sim.speed}, 300)["speed-up", "shift"]
    assert 0.55 < row.told_apart < 0.8
    assert row.width < 1


@pytest.mark.parametrize("seeds", [3, 10])
def test_three_copies_raise_one_family_of_alarms(seeds: int) -> None:
    alarms = sim.family_alarms(sim.World(seeds=seeds), 500, np.random.default_rng(seeds))
    limit = 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 500)
    for corrected in ("Bonferroni", "Holm", "speed-up"):
        assert 0 < alarms[corrected] < limit, corrected
    assert alarms["uncorrected"] > alarms["Holm"] + 0.02


def test_bootstraps_over_three_seeds_hold_too_rarely_and_say_so() -> None:
    few = rows(sim.World(seeds=3), sim.BOOTSTRAPS, 150)
    for (quantity, construction), row in few.items():
        assert row.held < 0.89, f"{quantity}, {construction}: {row.held}"
    world = sim.World(seeds=3)
    rng = np.random.default_rng(0)
    for make in sim.BOOTSTRAPS.values():
        assert not make(world, *world.curves(rng), rng).trusted


def test_the_bootstrap_of_a_difference_holds_better_with_more_seeds() -> None:
    maker = {("final value", "percentile bootstrap"): sim.bootstrap_final}
    held = [
        rows(sim.World(seeds=n), maker, 500)["final value", "percentile bootstrap"].held for n in (3, 5, 10)
    ]
    assert held[0] < 0.84 < held[1] < 0.91 < held[2] < 0.97


def test_pairing_seeds_that_share_is_right_and_narrower() -> None:
    """Paired or not, the interval holds; pairing pays where runs of equal seed agree."""
    found = {seeds: rows(sim.World(seeds=seeds, shared=0.6), sim.PAIRED, 600) for seeds in (3, 10)}
    for seeds, (quantity, paired) in product(
        found, (("final value", "paired"), ("speed-up", "shift, paired"))
    ):
        unpaired = "Welch" if quantity == "final value" else "shift"
        assert found[seeds][quantity, paired].held > 0.95 - 4 * ERROR
        assert found[seeds][quantity, unpaired].held > found[seeds][quantity, paired].held
        assert found[seeds][quantity, paired].width < found[seeds][quantity, unpaired].width
        assert found[seeds][quantity, paired].told_apart > found[seeds][quantity, unpaired].told_apart


def test_prompts_that_matter_need_the_interval_over_prompts() -> None:
    shares = sim.prompt_coverage(8, 16, 400, np.random.default_rng(2))
    assert shares["over seeds and prompts"] > 0.95 - 4 * math.sqrt(0.05 * 0.95 / 400)
    assert shares["over seeds alone"] < 0.88


def test_planned_power_is_about_what_is_found() -> None:
    """The plan is a little hopeful: it knows the spread, and takes the curves to be straight."""
    powers = sim.planned_power(sim.World(seeds=6), 400, np.random.default_rng(3))
    assert powers["found"] - 0.08 < powers["predicted"] < powers["found"] + 0.15


def test_rivals_agree_with_the_shift_where_curves_are_smooth() -> None:
    """Little noise and spread: every construction is then about the same interval."""
    world = sim.World(seeds=10, noise=0.002, level=0.02, rate=0.02)
    rng = np.random.default_rng(4)
    first, baseline = world.curves(rng)
    shift = speed_up(world.cost, first, world.cost, baseline, world.height, rng)
    width = math.log(shift.high / shift.low)
    for (_, construction), make in {**sim.RIVALS, **sim.RIVAL_BOOTSTRAPS}.items():
        rival = make(world, first, baseline, rng)
        assert rival.low < shift.value < rival.high, construction
        assert math.log(rival.high / rival.low) == pytest.approx(width, rel=0.3), construction


def test_the_command_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim.main(["--repetitions", "1", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| speed-up | shift |") == 24
    assert "uncorrected" in printed
    with pytest.raises(SystemExit):
        sim.main(["--repetitions", "0"])
