"""How rollouts are drawn: in parts, with a prefix that a group shares, by which weights, and which of them train."""

from __future__ import annotations

import pytest
import torch

from methods import CATALOG
from methods.collecting import _Network
from methods.experience import Draw
from methods.guiding import Rewards
from methods.naming import changed
from methods.selection import best_of_each
from methods.update import Learner
from methods.weights import AVERAGE, WeightSettings
from tests.methods.small import PROMPTS, Small, make, move, opened, small_method

ALL = pytest.mark.parametrize("name", CATALOG)


def rows_evaluated(small: Small) -> list[int]:
    """Notes how many rows each call of the network has from now on."""
    rows: list[int] = []
    small.policy.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    return rows


@ALL
def test_rollouts_drawn_in_parts_are_those_drawn_at_once(world, name):
    """Every draw is the same, bit for bit; the network rounds otherwise in another batch."""
    whole = make(world, name).collect(1)
    parts = make(world, name, rollout_batch=3).collect(1)
    assert torch.equal(parts.steps, whole.steps)
    if 0 in whole.trajectory.kept:
        assert torch.equal(parts.trajectory.state(0), whole.trajectory.state(0))
    one, two = (
        {
            "states": experience.trajectory.states,
            "log_probs": experience.trajectory.log_probs,
            "velocities": experience.velocities,
            "process": experience.trajectory.process_rewards,
            **experience.rewards,
            **experience.trajectory.reward_gradients,
        }
        for experience in (parts, whole)
    )
    assert one.keys() == two.keys()
    for part, expected in two.items():
        assert (one[part] is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(one[part], expected, atol=1e-5, rtol=1e-5, equal_nan=True)


def test_a_part_of_the_rollouts_is_all_that_is_in_memory(world):
    small = make(world, "dance_grpo", rollout_batch=3)
    rows = rows_evaluated(small)
    small.collect()
    assert set(rows) == {3, 1}


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("batch", [None, 3])
def test_a_group_that_has_not_parted_yet_is_evaluated_once(world, monkeypatch, start, batch):
    """Flow-GRPO-Fast: the members of a group share noise and steps until the first stochastic one."""
    window = f"sampler.window={{kind: range, start: {start}, stop: {start + 1}}}"
    small = make(world, "flow_grpo_fast", window, "group_size=3", rollout_batch=batch)
    rows = rows_evaluated(small)
    shared = small.collect()
    members, steps = 3 * len(PROMPTS), small.method.sampler.num_steps
    assert sum(rows) == len(PROMPTS) * start + members * (steps - start)
    plain = _Network.__init__

    def unshared(network, *arguments):
        plain(network, *arguments)
        network.shared = 0

    monkeypatch.setattr(_Network, "__init__", unshared)
    rows.clear()
    apart = small.collect()
    assert sum(rows) == members * steps
    torch.testing.assert_close(shared.trajectory.states, apart.trajectory.states, atol=1e-6, rtol=1e-6)


def test_groups_that_start_from_noise_of_their_own_share_nothing(world):
    small = make(world, "flow_grpo_fast", "same_initial_noise=false")
    rows = rows_evaluated(small)
    small.collect()
    assert set(rows) == {2 * len(PROMPTS)}


def test_rollouts_are_drawn_by_the_old_policy_where_the_objective_says_so(world):
    small = make(world, "diffusion_nft")
    before = small.collect().trajectory.states
    move(small, 0.1)  # of the trained weights; the copy stays
    assert torch.equal(small.collect().trajectory.states, before)
    assert not torch.equal(make_moved(world, "awm"), before)


def make_moved(world, name: str) -> torch.Tensor:
    small = make(world, name, "sampler.num_steps=4")
    move(small, 0.1)
    return small.collect().trajectory.states


# Selection


def test_the_best_and_the_worst_of_each_group_are_chosen_within_it():
    scores = torch.tensor([5.0, 1.0, 3.0, 2.0, 10.0, 40.0, 30.0, 20.0])
    assert best_of_each(scores, 4, 1, 1).tolist() == [0, 1, 4, 5]
    assert best_of_each(scores, 4, 2).tolist() == [0, 2, 5, 6]
    assert best_of_each(scores, 4, 0, 1).tolist() == [1, 4]
    assert best_of_each(torch.zeros(4), 4, 1, 1).tolist() == [0, 3]  # of equals the earlier is the better
    with pytest.raises(ValueError, match="3 best and 2 worst of 4"):
        best_of_each(scores, 4, 3, 2)


def test_advantages_of_the_chosen_are_those_within_the_whole_group(world):
    small = make(world, "dance_grpo_hunyuan", "group_size=6", "best_of={best: 2, worst: 1}")
    experience = small.collect()
    total = small.learner.rewards.total(experience.rewards).view(-1, 6)
    order = total.argsort(dim=1, descending=True)
    chosen = torch.cat([order[:, :2], order[:, -1:]], dim=1) + torch.tensor([[0], [6]])
    assert experience.samples.tolist() == sorted(chosen.flatten().tolist())
    at = small.learner._at(experience)
    pairs = small.learner._batch(experience, at)
    assert set(pairs.sample.tolist()) == set(experience.samples.tolist())
    everyone = make(world, "dance_grpo_hunyuan", "group_size=6", "best_of=null")
    whole = everyone.learner._batch(
        experience_of_all := everyone.collect(), everyone.learner._at(experience_of_all)
    )
    for row in range(len(pairs)):
        same = (whole.sample == pairs.sample[row]) & (whole.step == pairs.step[row])
        assert torch.equal(whole.advantages[:, same].flatten(), pairs.advantages[:, row])


def test_every_chosen_sample_is_trained_once(world):
    small = make(
        world, "dance_grpo_hunyuan", "group_size=6", "best_of={best: 2, worst: 2}", "updates_per_rollout=4"
    )
    share = small.learner._shares(small.collect())
    assert torch.bincount(share + 1).tolist() == [4, 2, 2, 2, 2]


# Copies of the weights


def test_the_average_of_the_weights_is_what_is_evaluated(world):
    """It keeps min(decay, (1 + n) / (10 + n)) of itself after optimiser step n."""
    small = make(world, "flow_grpo", "average={decay: 0.4, every: 2}", "updates_per_rollout=2")
    expected = [parameter.detach().clone() for parameter in small.learner.weights.parameters]
    for iteration in range(3):
        small.update(small.collect(iteration))
        step = 2 * iteration + 2
        kept = min(0.4, (1 + step) / (10 + step))
        now = small.learner.weights.parameters
        expected = [kept * old + (1 - kept) * new.detach() for old, new in zip(expected, now, strict=True)]
    for found, known in zip(small.learner.weights.copies[AVERAGE], expected, strict=True):
        torch.testing.assert_close(found, known)
    trained = small.learner.weights.state_dict()
    with small.learner.evaluated():
        for parameter, known in zip(small.learner.weights.parameters, expected, strict=True):
            torch.testing.assert_close(parameter.detach(), known)
    after = small.learner.weights.state_dict()
    assert all(torch.equal(trained[key], after[key]) for key in trained)


def test_copies_are_no_aliases_of_what_is_trained(world):
    small = make(world, "diffusion_nft", "average.decay=0.9")
    assert small.learner.weights.copies.keys() == {"old", AVERAGE}
    before = small.learner.weights.copies_state_dict()
    move(small, 0.1)
    after = small.learner.weights.copies_state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_copies_of_other_weights_are_refused(world):
    state = make(world, "diffusion_nft").learner.weights.copies_state_dict()
    with pytest.raises(ValueError, match="checkpoint has other copies of the weights than none"):
        make(world, "dance_grpo").learner.weights.load_copies_state_dict(state)


def test_an_error_while_a_copy_is_in_use_leaves_the_trained_weights(world):
    small = make(world, "diffusion_nft")
    move(small, 0.1)
    before = small.learner.weights.state_dict()
    with pytest.raises(RuntimeError, match="in the middle"), small.learner.weights.using("old"):
        raise RuntimeError("in the middle")
    after = small.learner.weights.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_preference_to_the_base_model_keeps_it_where_all_weights_are_trained(world):
    shared = opened(world)
    policy = shared.copy()
    rewards = Rewards(shared.suite.training, shared.suite.suite.training, None, policy.decode)
    method = small_method("online_dpo", "objective.refresh=0")
    learner = Learner.of(policy, method, rewards, shared.accelerator, 0, WeightSettings(kind="full"))
    figures = learner.update(learner.collect(Draw(0, 0, PROMPTS)))
    assert figures["gradient_norm"] > 0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dance_grpo", {"best_of": {"best": 8, "worst": 8}}, "best_of keeps 8 and 8 of group_size 12"),
        (
            "diffusion_nft",
            {"process.weight": 1.0},
            "process is set, and objective 'negative_aware' has no loss",
        ),
        (
            "diffusion_nft",
            {"distillation.anchor": "policy", "distillation.strength": 1},
            "distillation.anchor is 'policy', and objective",
        ),
        ("diffusion_nft", {"distillation.strength": 3.0}, "without noise has no effect"),
    ],
)
def test_what_an_objective_cannot_do_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        changed(CATALOG[name], changes, name)
