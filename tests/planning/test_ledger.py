"""Planned operations are those that the ledger of a real iteration records, and those of the closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.planning.estimate import Planner
from benchmarks.planning.measuring import Measurements
from benchmarks.session import Session
from benchmarks.task import Training
from methods.catalog import CATALOG
from rewards.cost import FlopCounter
from tests.benchmarks.test_ledger import closed_form
from tests.planning.conftest import costs_of, settings_of

COMPONENTS = ("rollout", "update", "process_reward", "decoder")


def backward_through_rewards(session: Session) -> float:
    """TFLOP of the outcome rewards' backward pass for one video, which an update that differentiates them includes."""
    video = session.settings.video
    shape = (1, video.num_frames, 3, video.height, video.width)
    videos = torch.rand(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    values = [reward(videos, ["a small red ball moving left"]) for reward in session.suite.training.values()]
    with FlopCounter() as counter:
        torch.autograd.grad(torch.stack(values).sum(), videos)
    return counter.tflops


@pytest.fixture(scope="module")
def session() -> Session:
    """The testbed, with every method."""
    return Session.open(settings_of(*CATALOG))


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_planned_operations_are_the_ledgers(
    tmp_path: Path, costs: Measurements, session: Session, name: str
) -> None:
    settings = session.settings
    training = Training(session, tmp_path, name, 0)
    training._timed_iteration(0)
    recorded = training.recorder.usages()[0]
    plan = Planner(settings, costs).plan(settings.method_settings[name])
    planned = dict(plan.ledger)
    if plan.differentiated:
        planned["update", "tflops"] += plan.pairs * backward_through_rewards(session)
    for component in COMPONENTS:
        place = component, "tflops"
        assert planned.get(place, 0.0) == pytest.approx(recorded.get(place, 0.0), rel=0.02), component
    for unit in ("nfe", "videos"):
        assert plan.used(unit) == sum(recorded.get((part, unit), 0.0) for part in COMPONENTS)


def test_planned_operations_are_those_of_the_closed_form() -> None:
    """Of all weights, as the closed form has them: adapters have products of their own."""
    settings = settings_of("dance_grpo", weights={"kind": "full"})
    plan = Planner(settings, costs_of(settings)).plan(settings.method_settings["dance_grpo"])
    expected = closed_form(Session.open(settings).policy())
    videos, steps = 4, 8
    assert plan.ledger["rollout", "tflops"] == pytest.approx(
        videos * steps * expected.forward / 1e12, rel=0.02
    )
    trained = videos * int(0.6 * (steps - 1))
    update = trained * (expected.forward + expected.backward) / 1e12
    assert plan.ledger["update", "tflops"] == pytest.approx(update, rel=0.02)


def test_guidance_doubles_the_networks_operations(costs: Measurements) -> None:
    guided = settings_of("euphonium", guidance_scale=3.0)
    two = Planner(guided, costs_of(guided)).plan(guided.method_settings["euphonium"])
    plain = settings_of("euphonium")
    one = Planner(plain, costs).plan(plain.method_settings["euphonium"])
    for component in ("rollout", "update"):
        place = component, "tflops"
        assert two.ledger[place] == pytest.approx(2 * one.ledger[place], rel=0.01)
    assert two.used("nfe") == 2 * one.used("nfe")
    assert two.ledger["process_reward", "tflops"] == one.ledger["process_reward", "tflops"]


def test_several_gpus_share_the_work_and_each_keeps_all_weights(costs: Measurements) -> None:
    settings = settings_of("flow_grpo", prompts_per_iteration=2)
    method = settings.method_settings["flow_grpo"]
    one, two = (Planner(settings, costs, gpus).plan(method) for gpus in (1, 2))
    assert two.used("tflops") == pytest.approx(one.used("tflops"))
    assert two.used("videos") == one.used("videos")
    assert two.memory.held["networks"] == one.memory.held["networks"]
    assert two.pairs == one.pairs / 2
    assert two.memory.at["update"] < one.memory.at["update"]
