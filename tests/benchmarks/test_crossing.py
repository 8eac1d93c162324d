"""Crossed designs: contrasts of cell means against least squares, closed forms and coverage by simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics import welch_difference
from benchmarks.ablating.crossing import INTERACTION, MAIN, Cell, Crossed, Design, contrasts
from benchmarks.ablating.effects import Effect, contrast_interval, effect_cells, effects_frame, estimate

Floats = NDArray[np.float64]
LEVELS = {"strength": ("0", "4", "16"), "credit": ("state", "next"), "group": ("8", "12")}


def design(*counts: int) -> Design:
    """Factors a, b, ... with so many levels."""
    levels = {
        name: tuple(f"{name}{n}" for n in range(count)) for name, count in zip("abc", counts, strict=False)
    }
    cells = itertools.product(*levels.values())
    return Design(levels, dict.fromkeys(levels, ""), {cell: "+".join(cell) for cell in cells})


def drawn(made: Design, rng: np.random.Generator, sizes: tuple[int, ...] = (3, 5, 4)) -> dict[Cell, Floats]:
    """Cells of different means, spreads and numbers of seeds."""
    return {
        cell: rng.normal(rng.normal(0.7, 0.1), 0.02 * (1 + number % 3), sizes[number % len(sizes)])
        for number, cell in enumerate(made.methods)
    }


def least_squares(made: Design, ends: dict[Cell, Floats]) -> tuple[dict[Cell, float], dict[Cell, float]]:
    """Cell means and their HC2 variances: one dummy a cell, its values' variance over their number."""
    cells = list(made.methods)
    y = np.concatenate([ends[cell] for cell in cells])
    x = np.concatenate([np.tile(np.arange(len(cells)) == n, (ends[c].size, 1)) for n, c in enumerate(cells)])
    x = x.astype(float)
    beta, *_ = np.linalg.lstsq(x, y, rcond=None)
    inverse = np.linalg.inv(x.T @ x)
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    meat = (x * ((y - x @ beta) ** 2 / (1 - leverage))[:, None]).T @ x
    return dict(zip(cells, beta, strict=True)), dict(
        zip(cells, np.diag(inverse @ meat @ inverse), strict=True)
    )


@pytest.mark.parametrize("counts", [(2, 2), (3, 2), (2, 2, 2), (3, 2, 2)])
def test_effects_are_those_of_a_regression(counts: tuple[int, ...]) -> None:
    """Coefficients of a saturated model in sum-to-zero coding; standard errors from its HC2 covariance."""
    made = design(*counts)
    ends = drawn(made, np.random.default_rng(len(counts)))
    means, variances = least_squares(made, ends)
    effects = estimate(made, ends)
    factors = list(made.levels)
    # Marginal means of balanced cells by averaging an array over the axes of the other factors.
    table = np.array(list(means.values())).reshape(counts)
    for effect in effects:
        chosen = [factors.index(name) for name in effect.contrast.levels]
        marginal = table.mean(axis=tuple(axis for axis in range(len(counts)) if axis not in chosen))
        at = [made.levels[name].index(level) for name, (level, _) in effect.contrast.levels.items()]
        if effect.contrast.kind == MAIN:
            expected = marginal[at[0]] - marginal[0]
        else:
            expected = marginal[at[0], at[1]] - marginal[at[0], 0] - marginal[0, at[1]] + marginal[0, 0]
        assert effect.interval.mean == pytest.approx(expected)
        error = math.sqrt(sum(w**2 * variances[cell] for cell, w in effect.contrast.weights.items()))
        width = stats.t.ppf((1 + effect.interval.confidence) / 2, effect.freedom) * error
        assert effect.interval.half_width == pytest.approx(width)


def test_two_by_two_is_the_coded_regression() -> None:
    """y = c + (A/2) a + (B/2) b + (AB/4) ab with a, b = -1, 1: main effects are twice, the interaction four times."""
    made = design(2, 2)
    ends = drawn(made, np.random.default_rng(3), sizes=(4,))
    rows = [
        (1, 2 * made.levels["a"].index(a) - 1, 2 * made.levels["b"].index(b) - 1, value)
        for (a, b), values in ends.items()
        for value in values
    ]
    x = np.array([(one, a, b, a * b) for one, a, b, _ in rows], dtype=float)
    beta, *_ = np.linalg.lstsq(x, np.array([row[-1] for row in rows]), rcond=None)
    found = [effect.interval.mean for effect in estimate(made, ends)]
    assert found == pytest.approx([2 * beta[1], 2 * beta[2], 4 * beta[3]])


def test_contrasts_of_a_design() -> None:
    made = Design(LEVELS, dict.fromkeys(LEVELS, ""), {})
    found = contrasts(made)
    assert [contrast.label for contrast in found] == [
        "strength: 4 − 0",
        "strength: 16 − 0",
        "credit: next − state",
        "group: 12 − 8",
        "strength 4 × credit next",
        "strength 16 × credit next",
        "strength 4 × group 12",
        "strength 16 × group 12",
        "credit next × group 12",
    ]
    assert [contrast.kind for contrast in found] == [MAIN] * 4 + [INTERACTION] * 5
    for contrast in found:
        weights = np.array(list(contrast.weights.values()))
        assert weights.sum() == pytest.approx(0)
        assert np.abs(weights).sum() == pytest.approx(2 if contrast.kind == MAIN else 4)
    # What one contrast is about does not move another: sums of products are zero for factors of two levels.
    square = [contrast.weights for contrast in contrasts(design(2, 2, 2))]
    for one, other in itertools.combinations(square, 2):
        assert sum(one[cell] * other[cell] for cell in one) == pytest.approx(0)


def test_two_groups_are_welchs_difference() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.7, 0.1, 3), rng.normal(0.6, 0.01, 6)
    interval, freedom = contrast_interval([1, -1], [one, other], 0.99)
    assert interval == welch_difference(one, other, 0.99)
    test = stats.ttest_ind(one, other, equal_var=False)
    assert freedom == pytest.approx(test.df)


@pytest.mark.parametrize("seeds", [3, 5])
def test_all_intervals_hold_together(seeds: int) -> None:
    """Of a 2 x 2 x 2 design with unequal spreads, at least 95 % of the times; and each of them where alone."""
    made = design(2, 2, 2)
    rng = np.random.default_rng(seeds)
    means = dict(zip(made.methods, rng.normal(0.7, 0.1, 8), strict=True))
    spreads = dict(zip(made.methods, (0.01, 0.02, 0.04, 0.08) * 2, strict=True))
    repetitions = 400
    together, alone = [], []
    for _ in range(repetitions):
        ends = {cell: rng.normal(means[cell], spreads[cell], seeds) for cell in made.methods}
        held = []
        for effect in estimate(made, ends):
            truth = sum(weight * means[cell] for cell, weight in effect.contrast.weights.items())
            held.append(effect.interval.low <= truth <= effect.interval.high)
        together.append(all(held))
        weights = contrasts(made)[0].weights
        interval, _ = contrast_interval(list(weights.values()), [ends[cell] for cell in weights])
        alone.append(interval.low <= sum(w * means[cell] for cell, w in weights.items()) <= interval.high)
    error = math.sqrt(0.05 * 0.95 / repetitions)
    assert np.mean(together) > 0.95 - 4 * error
    assert abs(np.mean(alone) - 0.95) < 4 * error


def by_label(effects: list[Effect]) -> dict[str, Effect]:
    return {effect.contrast.label: effect for effect in effects}


def test_missing_cells_and_single_seeds_are_said() -> None:
    """What needs a cell that is not there is unknown, not averaged over the others; the rest is as it was."""
    made = design(3, 2)
    ends = drawn(made, np.random.default_rng(1))
    whole = by_label(estimate(made, ends))
    lacking = by_label(estimate(made, {**ends, ("a2", "b1"): np.array([])}))
    assert lacking["a: a1 − a0"] == whole["a: a1 − a0"]
    for name in ("a: a2 − a0", "b: b1 − b0", "a a2 × b b1"):
        assert math.isnan(lacking[name].interval.mean)
        assert (lacking[name].why, lacking[name].verdict) == (
            "no finished seed of a-a2+b-b1",
            "cannot be said",
        )
    single = by_label(estimate(made, {**ends, ("a2", "b1"): ends["a2", "b1"][:1]}))
    found = single["a: a2 − a0"]
    assert not found.interval.known
    assert math.isfinite(found.interval.mean)
    assert (found.why, found.verdict) == ("one seed of a-a2+b-b1", "cannot be said")
    one = estimate(made, {cell: values[:1] for cell, values in ends.items()})
    assert {effect.why for effect in one} == {"one seed of each cell"}
    cells = dict(row[::3] for row in effect_cells(list(lacking.values())))
    assert cells["a: a2 − a0"] == "cannot be said: no finished seed of a-a2+b-b1"
    frame = effects_frame(list(lacking.values())).set_index("effect")
    assert frame.loc["a a2 × b b1", ["factor_1", "level_1", "against_2", "missing"]].tolist() == [
        "a",
        "a2",
        "b0",
        "no finished seed of a-a2+b-b1",
    ]


def test_no_spread_is_no_evidence() -> None:
    made = design(2, 2)
    effects = estimate(made, {cell: np.full(3, float(n)) for n, cell in enumerate(made.methods)})
    assert [effect.verdict for effect in effects] == ["cannot be said"] * 3


def test_a_design_is_read_as_it_was_written() -> None:
    made = design(3, 2)
    assert Design.load(made.dump()) == made


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({False: {"a": 1}, True: {"a": 2}}, ["off", "on"]),
        ({0: {"a": 1}, 0.5: {"a": 2}}, ["0", "0.5"]),
        ({"as_it_is": {}, "more": {"a": {"times": 2}}}, ["as_it_is", "more"]),
    ],
)
def test_names_of_levels(levels: dict[Any, Any], expected: list[str]) -> None:
    """As YAML reads them: `off:` is a truth value there, and `0:` a number."""
    assert list(Crossed.model_validate({"levels": levels}).changes) == expected
