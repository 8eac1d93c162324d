"""The answer in words: it claims what the records show and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.answer import Answer
from analysis.answer import answer as answer_against
from analysis.convergence import convergence
from analysis.records import Records, load_run
from tests.analysis.synthetic import Plan, write_run

FEW = ("accuracy", "caption_match")


def answer(run: Records) -> Answer:
    return answer_against(run, convergence(run))


def _answer(folder: Path, plan: Plan) -> str:
    return answer(load_run(write_run(folder, plan))).sentence


def test_a_clear_winner(tmp_path: Path) -> None:
    plan = Plan(seeds=10, spread=0.004, samples=8, with_samples=False, rewards=FEW)
    sentence = _answer(tmp_path, plan)
    assert sentence.startswith("euphonium ended highest: accuracy on held-out prompts rose from 0.")
    assert "95 % interval +0." in sentence
    assert "with 10 seeds each it can be told apart from" in sentence


def test_two_copies(tmp_path: Path) -> None:
    plan = Plan(methods=("one", "two"), spread=0.03, with_samples=False)
    assert "cannot be told apart from" in _answer(tmp_path, plan)


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    found = answer(load_run(write_run(tmp_path, Plan(seeds=1, with_samples=False))))
    assert "1 seed, so no interval" in found.ending
    assert "cannot be told from chance" in found.ending
    assert "reaches dance_grpo's final accuracy" in found.speed
    assert "it cannot be said whether" in found.speed
    assert any("no spread, no interval" in limit for limit in found.limits)
    assert not any(entry.interval.known for entry in found.differences)


def test_a_single_method(tmp_path: Path) -> None:
    found = answer(load_run(write_run(tmp_path, Plan(methods=("dance_grpo",), with_samples=False))))
    assert found.question.startswith("How far does dance_grpo align the video model within 30 iterations")
    assert found.sentence.startswith("dance_grpo was trained: accuracy on held-out prompts rose")
    assert found.speed == ""
    assert found.differences == ()


def test_before_any_seed_finished(tmp_path: Path) -> None:
    plan = Plan(seeds=1, failed=dict.fromkeys([("euphonium", 0), ("flow_grpo", 0), ("dance_grpo", 0)], 0))
    found = answer(load_run(write_run(tmp_path, plan)))
    assert found.sentence.startswith("There is no answer yet: no seed of euphonium, flow_grpo or dance_grpo")
    assert found.speed == ""


def test_who_has_not_finished(tmp_path: Path) -> None:
    plan = Plan(seeds=2, failed={("dance_grpo", 0): 10, ("dance_grpo", 1): 0}, with_samples=False)
    found = answer(load_run(write_run(tmp_path / "two", plan)))
    assert found.sentence.startswith("Of the 2 methods that finished, ")
    assert "no seed of the baseline dance_grpo has finished" in found.speed
    assert any("No seed of dance_grpo has finished" in limit for limit in found.limits)
    plan = replace(plan, methods=("euphonium", "dance_grpo"))
    found = answer(load_run(write_run(tmp_path / "one", plan)))
    assert found.sentence.startswith("Only euphonium has finished: ")


def _records(shapes: dict[str, list[float]], seeds: int, noise: float = 0.001) -> pd.DataFrame:
    """Evaluations of one held-out reward: base 0.5, and for each method a mean curve at iterations 10, 20, ..."""
    rng = np.random.default_rng(3)
    rows: list[tuple[str, int, int, float]] = [("base", 0, 0, 0.5)]
    for method, means in shapes.items():
        for seed in range(seeds):
            values = enumerate(means, start=1)
            rows += [(method, seed, 10 * place, mean + rng.normal(0, noise)) for place, mean in values]
    frame = pd.DataFrame(rows, columns=["method", "seed", "iteration", "value"])
    return frame.assign(split="held_out", prompt="a ball", sample=0, reward="accuracy")


def _run_of(folder: Path, shapes: dict[str, list[float]], seeds: int = 6) -> Path:
    plan = Plan(methods=tuple(shapes), seeds=seeds, with_samples=False, rewards=("accuracy",), ledger=False)
    write_run(folder, plan)
    _records(shapes, seeds).to_parquet(folder / "records" / "evaluations.parquet", index=False)
    return folder


def test_who_is_sooner_is_said_with_its_interval(tmp_path: Path) -> None:
    """Twice the speed by construction: the fast curve reaches 0.7 in a quarter of the way beyond doubt."""
    shapes = {
        "dance_grpo": [0.55, 0.6, 0.65, 0.7],
        "fast": [0.6, 0.7, 0.75, 0.8],
        "slow": [0.51, 0.52, 0.53, 0.54],
    }
    speed = answer(load_run(_run_of(tmp_path, shapes))).speed
    assert speed.startswith("Counted in iterations, fast (2.0")
    assert "95 % interval " in speed
    assert speed.endswith("reaches dance_grpo's final accuracy (0.700) sooner; slow ends short of it.")


def test_what_is_undecided_at_the_end_is_told_at_a_nearer_target(tmp_path: Path) -> None:
    shapes = {"dance_grpo": [0.55, 0.6, 0.65, 0.7], "early": [0.65, 0.68, 0.695, 0.7]}
    speed = answer(load_run(_run_of(tmp_path, shapes))).speed
    assert "it cannot be said whether early (" in speed
    assert "final accuracy (0.700) sooner; early (" in speed
    assert "75 % of its gain (0.65" in speed


def test_when_every_method_loses_it_is_not_called_a_win(tmp_path: Path) -> None:
    shapes = {"dance_grpo": [0.48, 0.46], "other": [0.45, 0.4]}
    found = answer(load_run(_run_of(tmp_path, shapes)))
    assert found.ending.startswith(
        "No method gained, and dance_grpo lost least: accuracy on held-out prompts fell"
    )
    assert "the baseline dance_grpo gained nothing" in found.speed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": 2.5, "budget_unit": "tflops"}, "2.5 TFLOP"),
        ({"budget": 1.0, "budget_unit": "iterations"}, "1 iteration"),
        ({"budget": 12000.0, "budget_unit": "nfe"}, "12,000 network evaluations"),
        ({"budget": 1.0, "budget_unit": "seconds"}, "1 second"),
        ({"budget": 640.0, "budget_unit": "videos"}, "640 videos"),
    ],
)
def test_the_budget_is_named_in_its_unit(tmp_path: Path, settings: dict[str, object], words: str) -> None:
    run = load_run(write_run(tmp_path, Plan(settings=settings, with_samples=False, seeds=1, rewards=FEW)))
    assert run.budget == words
    assert f"within {words}," in answer(run).question


def test_a_process_reward_that_nobody_pays_for_is_told(tmp_path: Path) -> None:
    """30 iterations of euphonium take 1.38 TFLOP, its process reward model took 0.3."""
    plan = Plan(seeds=2, rewards=FEW, with_samples=False)
    limits = " ".join(answer(load_run(write_run(tmp_path / "free", plan))).limits)
    assert (
        "Training the process reward model took 0.3 TFLOP, 0.22 times what a run of euphonium used" in limits
    )
    paid = answer(load_run(write_run(tmp_path / "paid", replace(plan, charge_prm=True))))
    assert "process reward model" not in " ".join(paid.limits)
