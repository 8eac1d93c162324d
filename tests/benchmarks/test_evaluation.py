"""Evaluation: fixed prompts and noise, whatever the batch; training is left alone, and never sees held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState

from analysis.schema import BASE, run_folder
from benchmarks import evaluation
from benchmarks.diagnostics import diagnose
from benchmarks.evaluation import Evaluated, evaluate, evaluation_prompts
from benchmarks.records import read_rows
from benchmarks.session import Session
from benchmarks.settings import RunSettings
from benchmarks.task import Training, evaluate_base
from benchmarks.testbed.scenes import prompt_split
from samplers.condition import Condition
from samplers.pipeline import PipelinePolicy
from tests.benchmarks.harness import Bench, Result, assert_same_state, same_tensors
from tests.world import world_settings

PROMPTS = dict(zip(("train", "held_out"), prompt_split(), strict=True))
CHOICE = {"train_prompts": 3, "samples_per_prompt": 3, "num_steps": 3}


@pytest.fixture(scope="module")
def session(world: Path) -> Session:
    return Session.open(world_settings(world, ["dance_grpo"], prompts=PROMPTS))


def evaluated(session: Session, **changes: object) -> Evaluated:
    choice = {**CHOICE, **changes}
    settings = world_settings(
        session.settings.model.parent, ["dance_grpo"], prompts=PROMPTS, evaluation=choice
    )
    return evaluate(session.policy(), session.suite, settings, 0)


def table(result: Evaluated) -> pd.DataFrame:
    columns = ["split", "prompt", "sample", "reward", "value"]
    frame = pd.DataFrame(result.rows, columns=columns)
    return frame.sort_values(columns[:-1], ignore_index=True)


@pytest.fixture(scope="module")
def usual(session: Session) -> Evaluated:
    return evaluated(session)


def test_the_same_policy_gets_the_same_rows(session: Session, usual: Evaluated) -> None:
    again = evaluated(session)
    assert again.rows == usual.rows
    assert (again.videos == usual.videos).all()


@pytest.mark.parametrize("batch", [1, 4, 9, 1000])
def test_rows_do_not_depend_on_the_batch(session: Session, usual: Evaluated, batch: int) -> None:
    """A batch of fewer videos than a prompt has still holds whole prompts, for their diversity."""
    rows, expected = table(evaluated(session, batch=batch)), table(usual)
    names = ["split", "prompt", "sample", "reward"]
    assert rows[names].equals(expected[names])
    np.testing.assert_allclose(rows["value"], expected["value"], atol=1e-5)


def test_rows_do_not_depend_on_the_other_prompts(session: Session, usual: Evaluated) -> None:
    rows, expected = table(evaluated(session, train_prompts=1)), table(usual)
    shared = expected[expected["prompt"].isin(set(rows["prompt"]))].reset_index(drop=True)
    assert set(rows["split"]) == {"held_out", "train"}
    np.testing.assert_allclose(rows["value"], shared["value"], atol=1e-5)


def test_more_samples_are_added_to_those_there_were(session: Session, usual: Evaluated) -> None:
    """Diversity apart, which compares them all."""
    rows, expected = (
        frame[frame["reward"] != "diversity"].reset_index(drop=True)
        for frame in (table(evaluated(session, samples_per_prompt=5)), table(usual))
    )
    rows = rows[rows["sample"] < 3].reset_index(drop=True)
    np.testing.assert_allclose(rows["value"], expected["value"], atol=1e-5)


def test_another_seed_is_other_noise(session: Session, usual: Evaluated) -> None:
    assert not np.allclose(table(evaluated(session, seed=1))["value"], table(usual)["value"])


def test_every_prompt_sample_and_reward_has_one_row(session: Session, usual: Evaluated) -> None:
    rows = table(usual)
    assert not rows.duplicated(["split", "prompt", "sample", "reward"]).any()
    prompts = session.settings.prompts
    assert len(rows) == (len(prompts.held_out) + 3) * 3 * len(session.suite.all)
    assert set(rows[rows["split"] == "held_out"]["prompt"]) == set(prompts.held_out)
    assert usual.prompts == list(prompts.held_out[::2])  # six of twelve
    assert usual.videos.shape == (evaluation.SHOWN, 5, 16, 16, 3)
    assert usual.mean("held_out", "accuracy") == pytest.approx(
        rows.query("split == 'held_out' and reward == 'accuracy'")["value"].mean()
    )


def test_sample_videos_are_the_scored_ones(session: Session, usual: Evaluated) -> None:
    """Their motion quality, measured on the eight-bit videos, is that of the rows."""
    videos = torch.from_numpy(usual.videos).permute(0, 1, 4, 2, 3) / 255
    values = session.suite.all["caption_match"](videos, usual.prompts).tolist()
    rows = table(usual).query("split == 'held_out' and sample == 0 and reward == 'caption_match'")
    expected = rows.set_index("prompt")["value"]
    np.testing.assert_allclose(values, [expected[prompt] for prompt in usual.prompts], atol=2e-3)


def test_training_prompts_are_spread_over_their_list(world: Path) -> None:
    def chosen(count: int) -> list[str]:
        settings = world_settings(world, ["dance_grpo"], evaluation={"train_prompts": count})
        return [prompt for split, prompt in evaluation_prompts(settings) if split == "train"]

    train = list(world_settings(world, ["dance_grpo"]).prompts.train)
    assert chosen(4) == [train[0], train[9], train[18], train[27]]
    assert chosen(1000) == train


def test_it_is_deterministic_sampling_without_reward_models(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many network calls as steps, for each batch, and none with a gradient."""
    calls = []
    velocity = PipelinePolicy.velocity

    def counted(
        self: PipelinePolicy, x: torch.Tensor, sigma: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        calls.append((len(x), torch.is_grad_enabled()))
        return velocity(self, x, sigma, condition)

    monkeypatch.setattr(PipelinePolicy, "velocity", counted)
    evaluated(session, batch=30)
    assert calls == [(30, False)] * 3 + [(15, False)] * 3


def test_held_out_prompts_are_never_trained_on(world: Path, tmp_path: Path) -> None:
    """All draws of many iterations and seeds: training prompts only, each once a batch, and in time all of them."""
    settings = world_settings(world, ["euphonium", "dance_grpo"], prompts_per_iteration=8)
    session = Session.open(settings)
    held_out, train = set(settings.prompts.held_out), set(settings.prompts.train)
    for seed in range(3):
        one, two = (Training(session, tmp_path, method, seed) for method in settings.methods)
        seen: set[str] = set()
        batches = []
        for iteration in range(150):
            drawn = one._draw(iteration)
            assert not set(drawn.prompts) & held_out
            assert len(set(drawn.prompts)) == 8
            assert (drawn.seed, drawn.iteration, drawn.first_group) == (seed, iteration, 0)
            assert two._draw(iteration) == drawn  # every method trains on the same prompts
            seen |= set(drawn.prompts)
            batches.append(tuple(drawn.prompts))
        assert seen == train
        assert len(set(batches)) == 150


def test_evaluation_leaves_training_as_it_was(bench: Bench) -> None:
    """However often the policy is evaluated, the same rows of training, weights and optimiser come out."""
    rare, often = (
        bench(
            "--methods",
            "euphonium",
            output=f"every{every}",
            budget=3,
            evaluation={"every": every, "train_prompts": 1, "samples_per_prompt": 2, "batch": batch},
        )
        for every, batch in ((1000, 144), (1, 10))
    )
    assert set(rare.rows("evaluations")["iteration"]) == {0, 3}
    assert set(often.rows("evaluations")["iteration"]) == {0, 1, 2, 3}
    one, two = (trained_rows(result) for result in (rare, often))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert_same_state(rare, often, "euphonium")


@pytest.fixture
def precision_apart() -> Iterator[None]:
    """accelerate allows one precision a process, so its record of what other tests use is put aside."""
    state = AcceleratorState._shared_state
    kept = dict(state)
    state.clear()
    yield
    state.clear()
    state.update(kept)


@pytest.mark.usefixtures("session", "precision_apart")
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_base_and_policy_are_evaluated_in_one_precision(world: Path, tmp_path: Path, weights: str) -> None:
    """A policy that has learnt nothing is the base model, in bfloat16 as well, and at no distance from it."""
    settings = world_settings(world, ["dance_grpo"], precision="bf16", weights={"kind": weights, "rank": 2})
    session = Session.open(settings)
    evaluate_base(session, tmp_path, lambda _: None)
    training = Training(session, tmp_path, "dance_grpo", 0)
    rows = evaluate(training.policy, session.suite, settings, 0).rows
    recorded = read_rows(run_folder(tmp_path, BASE, 0), "evaluations")
    assert list(recorded["value"]) == [row[-1] for row in rows]
    diagnosed = diagnose(training.learner, session.suite, settings, None)
    assert diagnosed == {"diagnostic/kl_to_base": 0.0}


def trained_rows(result: Result) -> pd.DataFrame:
    """Training metrics without the diagnostics, which come with evaluation."""
    rows = result.rows("iterations")
    return rows[~rows["metric"].str.startswith("diagnostic/")].reset_index(drop=True)


def test_the_base_model_is_not_moved_by_training(session: Session, tmp_path: Path) -> None:
    before = session.policy().transformer.state_dict()
    settings: RunSettings = session.settings
    Training(Session.open(settings), tmp_path, "dance_grpo", 0).run(lambda _: None)
    assert same_tensors(dict(before), dict(session.policy().transformer.state_dict()))


def test_early_evaluations_are_denser_and_come_without_diagnostics(bench: Bench) -> None:
    """Every second iteration up to the fourth, then every fifth; the end is always evaluated, with diagnostics."""
    choice = {**CHOICE, "every": 5, "early_every": 2, "early_until": 4, "diagnostic_prompts": 1}
    result = bench("--methods", "dance_grpo", budget=6, evaluation=choice)
    folder = run_folder(bench.folder / "out", "dance_grpo", 0)
    assert result.code == 0
    assert sorted(set(read_rows(folder, "evaluations")["iteration"])) == [2, 4, 5, 6]
    rows = read_rows(folder, "iterations")
    diagnosed = rows.loc[rows["metric"] == "diagnostic/kl_to_base", "iteration"]
    assert sorted(set(diagnosed)) == [0, 5, 6]
