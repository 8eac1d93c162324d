"""The process reward trained on with the policy's own videos."""

from __future__ import annotations

import copy

import pytest
import torch

from methods import CATALOG
from methods.naming import changed
from methods.refreshing import _pairs
from methods.seeding import generator
from tests.methods.small import Small, make


@pytest.fixture
def small(world) -> Small:
    return make(world, "euphonium", "process_refresh.steps=3", "process_refresh.learning_rate=0.001")


def refresh(small: Small, iteration: int, experience) -> dict[str, float]:
    return small.refresher.refresh(experience, generator(0, "refresh", iteration))


def test_it_trains_the_process_reward_and_nothing_else(small):
    experience = small.collect()
    policy = {name: tensor.clone() for name, tensor in small.policy.transformer.state_dict().items()}
    before = copy.deepcopy(small.process_reward.state_dict())
    figures = refresh(small, 0, experience)
    assert figures["process_refresh_loss"] > 0
    after = small.process_reward.state_dict()
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.items())
    assert all(
        torch.equal(policy[name], tensor) for name, tensor in small.policy.transformer.state_dict().items()
    )
    # Everything else reads it frozen: a gradient with respect to its input only.
    assert not any(parameter.requires_grad for parameter in small.process_reward.parameters())


def test_it_learns_which_video_of_a_group_the_outcome_rewards_prefer(small):
    experience = small.collect()
    losses = [refresh(small, iteration, experience)["process_refresh_loss"] for iteration in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_pairs_are_two_members_of_one_group(small):
    experience = small.collect()
    size = len(experience.steps) // len(experience.draw.prompts)
    first, second = _pairs(experience, 500, torch.Generator().manual_seed(0))
    assert (first != second).all()
    assert (first // size == second // size).all()
    assert set(first.tolist()) == set(range(len(experience.steps)))


def test_it_depends_on_the_seed_and_the_iteration_alone(world):
    states = []
    for _ in range(2):
        one = make(world, "euphonium", "process_refresh.steps=2")
        refresh(one, 4, one.collect())
        states.append(one.process_reward.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_it_is_refused_where_nothing_uses_a_process_reward():
    with pytest.raises(ValueError, match="process_refresh is set, and nothing in this method uses"):
        changed(CATALOG["flow_grpo"], {"process_refresh.steps": 2}, "flow_grpo")


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(small):
    experience = small.collect()
    with torch.no_grad():
        small.process_reward.head[-1].bias.fill_(float("nan"))
    before = copy.deepcopy(small.process_reward.state_dict())
    with pytest.raises(FloatingPointError, match="process reward on the policy's videos is nan"):
        refresh(small, 0, experience)
    after = small.process_reward.state_dict()
    assert [
        name
        for name, tensor in before.items()
        if not torch.equal(tensor.nan_to_num(7), after[name].nan_to_num(7))
    ] == []
    assert not any(parameter.requires_grad for parameter in small.process_reward.parameters())
