"""The answer in words: it claims what the records show and no more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.answer import Answer
from analysis.answer import answer as answer_against
from analysis.convergence import UNDECIDED, convergence
from analysis.records import RecordError, Records, load_run
from analysis.schema import LOOKS_FILE
from tests.analysis.synthetic import Plan, write_run

FEW = ("accuracy", "caption_match")
Shapes = Mapping[str, list[float]]


def answer(run: Records) -> Answer:
    return answer_against(run, convergence(run))


def _run_of(
    folder: Path, shapes: Shapes, seeds: int = 6, noise: float = 0.001, settings: dict | None = None
) -> Records:
    """One held-out reward: base 0.5, and for each method a mean curve at iterations 10, 20, ..."""
    plan = Plan(methods=tuple(shapes), seeds=seeds, with_samples=False, rewards=("accuracy",), ledger=False)
    write_run(folder, replace(plan, settings=settings or {}))
    rng = np.random.default_rng(3)
    rows: list[tuple[str, int, int, float]] = [("base", 0, 0, 0.5)]
    for method, means in shapes.items():
        for seed in range(seeds):
            values = enumerate(means, start=1)
            rows += [(method, seed, 10 * place, mean + rng.normal(0, noise)) for place, mean in values]
    frame = pd.DataFrame(rows, columns=["method", "seed", "iteration", "value"])
    frame = frame.assign(split="held_out", prompt="a ball", sample=0, reward="accuracy")
    frame.to_parquet(folder / "records" / "evaluations.parquet", index=False)
    return load_run(folder)


def _with_settings(folder: Path, **entries: object) -> Records:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | entries))
    return load_run(folder)


EVEN = [0.55, 0.6, 0.65, 0.7]
FAST = [0.6, 0.7, 0.75, 0.8]


def test_a_clear_winner(tmp_path: Path) -> None:
    plan = Plan(seeds=10, spread=0.004, samples=8, with_samples=False, rewards=FEW)
    found = answer(load_run(write_run(tmp_path, plan)))
    assert found.question.startswith(
        "Which method learns faster than flow_grpo within 30 iterations, judged by"
    )
    assert found.primary.startswith("From 25 % to 85 % of flow_grpo's gain in accuracy (0.")
    assert "counted in iterations, euphonium (" in found.primary
    assert found.secondary.startswith("euphonium ended highest: accuracy on held-out prompts rose from 0.")
    assert "95 % interval +0." in found.secondary
    assert "with 10 seeds each that is higher than " in found.secondary
    assert "beyond chance" in found.secondary
    assert found.decided
    assert found.sentence == f"{found.primary} {found.secondary}"


def test_two_copies_are_not_told_from_each_other(tmp_path: Path) -> None:
    found = answer(_run_of(tmp_path, {"one": EVEN, "two": EVEN}, noise=0.01))
    assert "in iterations, two (" in found.primary
    assert ") is not shown to differ from one." in found.primary
    assert "no difference from " in found.secondary
    assert "beyond chance" not in found.sentence
    assert not found.decided


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    found = answer(load_run(write_run(tmp_path, Plan(seeds=1, with_samples=False))))
    assert found.primary.startswith(
        "No speed-up is given: the baseline flow_grpo has one finished seed, so its gain is not shown"
    )
    assert "1 seed, so no interval" in found.secondary
    assert found.secondary.endswith("with one seed of a method nothing is known of chance.")
    assert any("no spread, no interval" in limit for limit in found.limits)
    assert not any(entry.interval.known for entry in found.differences)
    assert not found.decided
    assert not re.search(r"\b1 (seeds|runs|methods)", found.sentence + " ".join(found.limits))


def test_a_single_method(tmp_path: Path) -> None:
    found = answer(load_run(write_run(tmp_path, Plan(methods=("dance_grpo",), with_samples=False))))
    assert found.question.startswith("How far does dance_grpo align the video model within 30 iterations")
    assert found.primary.startswith("dance_grpo was trained: accuracy on held-out prompts rose")
    assert (found.secondary, found.speeds, found.differences) == ("", (), ())


def test_before_any_seed_finished(tmp_path: Path) -> None:
    plan = Plan(seeds=1, failed=dict.fromkeys([("euphonium", 0), ("flow_grpo", 0), ("dance_grpo", 0)], 0))
    found = answer(load_run(write_run(tmp_path, plan)))
    assert found.sentence == (
        "There is no answer yet: no seed of euphonium, flow_grpo or dance_grpo has finished with an evaluation of "
        "accuracy."
    )
    assert found.standings == ()


def test_who_has_not_finished(tmp_path: Path) -> None:
    plan = Plan(seeds=2, failed={("flow_grpo", 0): 10, ("flow_grpo", 1): 0}, with_samples=False)
    found = answer(load_run(write_run(tmp_path / "two", plan)))
    assert "no seed of the baseline flow_grpo has finished" in found.primary
    assert found.secondary.startswith("Of the 2 methods that finished, ")
    assert any("No seed of flow_grpo has finished" in limit for limit in found.limits)
    plan = replace(plan, methods=("euphonium", "flow_grpo"))
    found = answer(load_run(write_run(tmp_path / "one", plan)))
    assert found.secondary.startswith("Only euphonium has finished: ")


def test_who_is_faster_and_who_does_not_get_so_far(tmp_path: Path) -> None:
    """The fast curve takes half the iterations by construction; the slow one never arrives."""
    found = answer(_run_of(tmp_path, {"dance_grpo": EVEN, "fast": FAST, "slow": [0.51, 0.52, 0.53, 0.54]}))
    assert "(0.550 to 0.670), counted in iterations, fast (2.0" in found.primary
    assert "95 % interval " in found.primary
    assert ") is faster than dance_grpo; slow (does not get so far, " in found.primary
    assert found.primary.endswith("× at most) is slower than dance_grpo.")
    assert {entry.method: entry.verdict for entry in found.speeds} == {"fast": "faster", "slow": "slower"}
    assert found.decided


def test_a_secondary_finding_is_a_suggestion_while_the_primary_one_is_open(tmp_path: Path) -> None:
    """All three learn alike, and one ends higher: that was not the question."""
    found = answer(_run_of(tmp_path, {"dance_grpo": EVEN, "late": [0.55, 0.6, 0.65, 0.74]}, noise=0.004))
    assert [entry.verdict for entry in found.speeds] == [UNDECIDED]
    assert not found.decided
    assert "the intervals suggest that this is higher than dance_grpo, to be confirmed on other seeds" in (
        found.secondary
    )
    assert "beyond chance" not in found.secondary
    decided = answer(_run_of(tmp_path / "fast", {"dance_grpo": EVEN, "fast": FAST}))
    assert "that is higher than dance_grpo beyond chance" in decided.secondary


def test_a_question_about_the_end_comes_first_where_it_was_asked(tmp_path: Path) -> None:
    shapes = {"dance_grpo": EVEN, "late": [0.55, 0.6, 0.65, 0.74]}
    found = answer(_run_of(tmp_path / "decided", shapes, settings={"question": {"asks": "final"}}))
    assert found.question.startswith("Which method ends higher than dance_grpo within ")
    assert found.primary.startswith("late ended highest")
    assert "that is higher than dance_grpo beyond chance" in found.primary
    assert found.secondary.startswith("From 25 % to 85 % of dance_grpo's gain")
    assert found.decided
    # Of an undecided end, what is seen of speed is a suggestion.
    shapes = {"dance_grpo": EVEN, "early": [0.62, 0.68, 0.69, 0.7]}
    found = answer(_run_of(tmp_path / "open", shapes, settings={"question": {"asks": "final"}}))
    assert not found.decided
    assert "seems faster than dance_grpo; to be confirmed on other seeds." in found.secondary


def test_the_baseline_that_the_run_named(tmp_path: Path) -> None:
    named = {"question": {"asks": "speed", "baseline": "fast"}}
    run = _run_of(tmp_path, {"dance_grpo": EVEN, "fast": FAST}, settings=named)
    assert answer(run).question.startswith("Which method learns faster than fast ")
    assert {entry.baseline for entry in convergence(run).speeds} == {"fast"}
    assert convergence(run, "dance_grpo").baseline == "dance_grpo"
    with pytest.raises(RecordError, match="baseline is 'nobody', which was not trained"):
        answer(_with_settings(tmp_path, question={"baseline": "nobody"}))


def test_records_that_name_no_question_ask_about_speed(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, Plan(seeds=3, rewards=FEW, with_samples=False)))
    assert "question" not in run.settings
    assert (run.question.asks, run.question.baseline) == ("speed", None)
    assert (run.looks, run.confidence) == (1, 0.95)
    assert answer(run).question.startswith("Which method learns faster than flow_grpo")


def test_planned_looks_make_the_primary_interval_wider(tmp_path: Path) -> None:
    run = _run_of(tmp_path, {"dance_grpo": EVEN, "fast": FAST}, seeds=4)
    once = answer(run).speeds[0].ratio
    table = "seeds,confidence\n3,0.99\n4,0.98\n"
    (tmp_path / LOOKS_FILE).write_text(table)
    found = answer(load_run(tmp_path))
    ratio = found.speeds[0].ratio
    assert ratio.confidence == 0.98
    assert ratio.low < once.low
    assert ratio.high > once.high
    assert "98 % interval" in found.primary
    assert any("this is look 2, judged at 98 %" in limit for limit in found.limits)


def test_a_final_reward_that_is_no_number_is_named_and_not_ranked(tmp_path: Path) -> None:
    run = _run_of(tmp_path, {"dance_grpo": EVEN, "fast": FAST, "broken": FAST})
    file = tmp_path / "records" / "evaluations.parquet"
    frame = pd.read_parquet(file)
    last = (frame["method"] == "broken") & (frame["seed"] == 1) & (frame["iteration"] == 40)
    frame.loc[last, "value"] = np.nan
    frame.to_parquet(file, index=False)
    found = answer(load_run(run.path))
    assert [entry.method for entry in found.standings] == ["fast", "dance_grpo"]
    assert "A final accuracy of broken is not a number, so nothing is said about it." in found.limits
    assert "nan" not in found.sentence.lower()
    assert {entry.first for entry in found.differences} == {"fast"}


def test_seeds_that_are_alike_have_no_interval(tmp_path: Path) -> None:
    found = answer(_run_of(tmp_path, {"dance_grpo": EVEN, "fast": FAST}, noise=0.0))
    assert "fast ended highest" in found.secondary
    assert "(+0.300; all 6 seeds alike, so no interval)" in found.secondary
    assert "no interval" in found.primary
    assert not found.decided
    assert not any(entry.interval.known for entry in found.differences)


def test_methods_that_end_the_same_ended_level(tmp_path: Path) -> None:
    found = answer(_run_of(tmp_path, {"dance_grpo": EVEN, "same": EVEN}, noise=0.0))
    assert found.secondary.startswith("dance_grpo and same ended level: accuracy on held-out prompts rose")
    assert "highest" not in found.sentence


def test_no_change_at_all(tmp_path: Path) -> None:
    found = answer(_run_of(tmp_path, {"dance_grpo": [0.5, 0.5]}, noise=0.0))
    assert "accuracy on held-out prompts ended at 0.500 (0.000; all 6 seeds alike" in found.primary


def test_when_every_method_loses_it_is_not_called_a_win(tmp_path: Path) -> None:
    found = answer(_run_of(tmp_path, {"dance_grpo": [0.48, 0.46], "other": [0.45, 0.4]}))
    assert found.secondary.startswith(
        "No method gained, and dance_grpo lost least: accuracy on held-out prompts fell"
    )
    assert found.primary.startswith(
        "No speed-up is given: the baseline dance_grpo is not shown to gain in accuracy (−0.0"
    )
    assert found.primary.endswith("so it sets no target.")


def test_a_baseline_that_lost_its_gain_again_is_a_weak_target(tmp_path: Path) -> None:
    run = _run_of(tmp_path, {"dance_grpo": [0.6, 0.7, 0.6, 0.55], "fast": FAST})
    assert any(
        limit.startswith("dance_grpo peaked at 0.700 and ended at 0.5") for limit in answer(run).limits
    )


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
        "Training the process reward model took 0.3 TFLOP, 0.217 times what a run of euphonium used" in limits
    )
    paid = answer(load_run(write_run(tmp_path / "paid", replace(plan, charge_prm=True))))
    assert "process reward model" not in " ".join(paid.limits)
