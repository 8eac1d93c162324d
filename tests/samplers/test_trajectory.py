"""What a rollout keeps."""

import pytest
import torch

from samplers import GaussianPolicy, Window, build, draw_noise
from samplers.sampler import Sampler
from samplers.trajectory import Trajectory

POLICY = GaussianPolicy(0.3, 0.7)


def linear(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
    return x.flatten(1).mean(1)


def roll(keep: object = "all", reward: object = linear, **options: object) -> Trajectory:
    settings = build("flow_grpo", num_steps=8).settings.replace(window=Window(kind="range", start=2, stop=4))
    generator = torch.Generator().manual_seed(0)
    noise = draw_noise((3, 2, 5), generator)
    return Sampler(settings).rollout(POLICY, noise, None, generator, reward, keep=keep, **options)


def test_everything_is_kept_unless_asked_otherwise():
    trajectory = roll()
    assert trajectory.states.shape == (9, 3, 2, 5)
    assert trajectory.kept == tuple(range(9))
    assert trajectory.log_probs.shape == (8, 3)
    assert trajectory.sigmas.shape == (9,)
    assert trajectory.process_rewards.shape == (9, 3)
    assert trajectory.num_steps == 8
    assert torch.equal(trajectory.final, trajectory.states[-1])


@pytest.mark.parametrize(
    ("keep", "kept"), [("stochastic", (2, 3, 4, 8)), ("final", (8,)), ([0, 5], (0, 5, 8)), ((8,), (8,))]
)
def test_a_shorter_memory_keeps_the_same_states(keep, kept):
    everything, some = roll(), roll(keep)
    assert some.kept == kept
    assert torch.equal(some.states, everything.states[list(kept)])
    assert torch.equal(some.state(kept[0]), everything.state(kept[0]))
    assert torch.equal(some.log_probs.nan_to_num(), everything.log_probs.nan_to_num())
    assert torch.equal(some.process_rewards, everything.process_rewards)
    with pytest.raises(KeyError, match="state 1 was not kept"):
        some.state(1)


def test_dropped_states_are_recomputed_from_the_same_seeds():
    short = roll("final")
    again = roll("all")
    assert torch.equal(short.final, again.final)


def test_what_cannot_be_kept_is_an_error():
    with pytest.raises(ValueError, match=r"state 9: states are 0..8"):
        roll([9])
    with pytest.raises(ValueError, match="keep = 'some'"):
        roll("some")


def test_process_reward_credit():
    trajectory = roll()
    values = torch.stack([linear(x, None, None) for x in trajectory.states])
    torch.testing.assert_close(trajectory.process_credit("state"), values[:-1])
    torch.testing.assert_close(trajectory.process_credit("next_state"), values[1:])
    torch.testing.assert_close(trajectory.process_credit("difference"), values[1:] - values[:-1])
    with pytest.raises(ValueError, match="choose 'state'"):
        trajectory.process_credit("last")


def test_no_reward_no_process_rewards():
    assert roll(reward=None).process_rewards is None
    assert roll(reward=None, guide=linear).process_rewards is None


def test_the_policy_may_be_a_function_or_an_object():
    sampler = build("ode", num_steps=3)
    x = draw_noise((2, 3), torch.Generator().manual_seed(0))
    by_object = sampler.rollout(POLICY, x)
    by_function = sampler.rollout(lambda x, sigma, condition: POLICY.velocity(x, sigma), x)
    assert torch.equal(by_object.states, by_function.states)
    with pytest.raises(TypeError, match="policy is a str: give an object with velocity"):
        sampler.rollout("policy", x)
