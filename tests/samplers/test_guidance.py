"""Where the reward's gradient comes from, how it is shaped, and how often anything is evaluated."""

import math

import pytest
import torch

from samplers import (
    GaussianPolicy,
    Guidance,
    build,
    draw_noise,
    reward_value,
    reward_value_and_gradient,
    shape_gradient,
)

POLICY = GaussianPolicy(0.3, 0.7)
SLOPE = 2.0


def noise(batch: int = 3) -> torch.Tensor:
    return draw_noise((batch, 4, 2, 3), torch.Generator().manual_seed(0))


def linear(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
    return SLOPE * x.flatten(1).sum(1)


class Counted:
    """A reward with its own gradient that counts what is asked of it."""

    def __init__(self) -> None:
        self.values = 0
        self.gradients = 0
        self.sigmas: list[float] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        self.values += 1
        self.sigmas.append(float(sigma[0]))
        return linear(x, sigma, condition)

    def value_and_gradient(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.gradients += 1
        self.sigmas.append(float(sigma[0]))
        return linear(x, sigma, condition), torch.full_like(x, SLOPE)


def rolled(guidance: Guidance, reward: object, policy: object = POLICY, **options: object):
    sampler = build("dance_grpo", num_steps=8, guidance=guidance)
    generator = torch.Generator().manual_seed(1)
    return sampler, sampler.rollout(policy, noise(), "prompt", generator, reward, **options)


def test_gradient_of_a_callable_is_autograds_and_touches_no_parameter():
    weight = torch.nn.Parameter(torch.tensor(3.0))

    def reward(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        return (weight * x.square() * sigma.reshape(-1, 1, 1, 1)).flatten(1).sum(1)

    x, sigma = noise(), torch.tensor([0.2, 0.5, 0.9])
    with torch.no_grad():
        values, gradient = reward_value_and_gradient(reward, x, sigma, None)
    torch.testing.assert_close(gradient, 6 * x * sigma.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(values, reward(x, sigma, None))
    assert weight.grad is None
    assert not x.requires_grad
    assert not values.requires_grad
    assert torch.equal(reward_value(reward, x, sigma, None), values)


def test_guided_steps_take_value_and_gradient_from_one_evaluation():
    reward = Counted()
    sampler, trajectory = rolled(Guidance(strength=1.0, start=2, stop=7, interval=2), reward)
    assert [i for i in range(8) if sampler.guided(i)] == [2, 4, 6]
    assert reward.gradients == 3
    assert reward.values == 9 - 3
    assert reward.sigmas == pytest.approx(sampler.sigmas.tolist())
    torch.testing.assert_close(
        trajectory.process_rewards, torch.stack([linear(x, None, None) for x in trajectory.states])
    )


def test_states_are_scored_only_on_demand():
    reward = Counted()
    _, trajectory = rolled(Guidance(strength=1.0, start=6), None, guide=reward)
    assert trajectory.process_rewards is None
    assert (reward.values, reward.gradients) == (0, 2)
    with pytest.raises(ValueError, match="no process rewards"):
        trajectory.process_credit("state")


def test_a_gradient_reward_and_autograd_guide_alike():
    guidance = Guidance(strength=1.5)
    _, own = rolled(guidance, Counted())
    _, autograd = rolled(guidance, linear)
    assert torch.equal(own.states, autograd.states)


def test_the_condition_reaches_policy_and_reward_untouched():
    token = object()
    seen = []

    def policy(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        seen.append(condition)
        return POLICY.velocity(x, sigma)

    def reward(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        seen.append(condition)
        return linear(x, sigma, condition)

    sampler = build("dance_grpo", num_steps=3, guidance=1.0)
    sampler.rollout(policy, noise(), token, torch.Generator(), reward)
    assert len(seen) == 7
    assert all(entry is token for entry in seen)


@pytest.mark.parametrize("reward", [linear, Counted()], ids=["autograd", "own gradient"])
def test_guidance_through_the_clean_estimate_includes_the_networks_jacobian(reward):
    sampler, trajectory = rolled(Guidance(strength=0.5, at="x0_hat"), reward)
    for index in range(8):
        # x0_hat of Gaussian data is the posterior mean, whose slope in x is known.
        t = float(sampler.sigmas[index])
        slope = (1 - t) * 0.7**2 / ((1 - t) ** 2 * 0.7**2 + t**2)
        gradient = trajectory.reward_gradients[index]
        torch.testing.assert_close(gradient, torch.full_like(gradient, SLOPE * slope), rtol=1e-4, atol=1e-5)
        clean, _ = POLICY.posterior(trajectory.state(index), torch.full((3,), t))
        expected = SLOPE * clean.flatten(1).sum(1)
        torch.testing.assert_close(trajectory.process_rewards[index].double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trajectory.process_rewards[-1], linear(trajectory.final, None, None))


def test_a_reward_of_clean_inputs_only_sees_time_zero_through_the_clean_estimate():
    reward = Counted()
    rolled(Guidance(strength=0.5, start=3, stop=5, at="x0_hat"), reward)
    assert reward.gradients == 2
    assert reward.values == 7
    assert set(reward.sigmas) == {0.0}


def test_the_policy_is_evaluated_once_per_step_wherever_the_gradient_is_taken():
    for at in ("state", "x0_hat"):
        calls = []

        def policy(x: torch.Tensor, sigma: torch.Tensor, condition: object, calls=calls) -> torch.Tensor:
            calls.append(torch.is_grad_enabled())
            return POLICY.velocity(x, sigma)

        rolled(Guidance(strength=0.5, start=4, at=at), linear, policy)
        assert calls == [False] * 4 + [at == "x0_hat"] * 4


def test_per_sample_normalisation_gives_unit_norm_and_keeps_a_zero_gradient():
    gradient = noise()
    gradient[1] = 0
    shaped = shape_gradient(gradient, Guidance(strength=1.0, normalisation="sample"))
    assert shaped.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 0.0, 1.0], abs=1e-6)
    whole = shape_gradient(gradient, Guidance(strength=1.0, normalisation="batch"))
    assert whole.norm().item() == pytest.approx(1.0, abs=1e-6)


def test_clipping_limits_the_rms_and_leaves_the_rest_alone():
    gradient = noise()
    gradient[0] *= 100
    limit = gradient[1:].flatten(1).norm(dim=1).max().item() / math.sqrt(24) + 0.1
    shaped = shape_gradient(gradient, Guidance(strength=1.0, clip=limit))
    assert shaped[0].square().mean().sqrt().item() == pytest.approx(limit, rel=1e-5)
    assert torch.equal(shaped[1:], gradient[1:])
    direction = torch.nn.functional.cosine_similarity(shaped[0].flatten(), gradient[0].flatten(), dim=0)
    assert direction.item() == pytest.approx(1, abs=1e-6)


def test_half_precision_gradients_are_shaped_in_float32():
    gradient = (noise() * 1000).half()
    shaped = shape_gradient(gradient, Guidance(strength=1.0, normalisation="sample"))
    assert shaped.dtype == torch.float32
    assert shaped.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_a_policy_that_hides_its_jacobian_cannot_guide_through_the_clean_estimate():
    def detached(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        with torch.no_grad():
            return POLICY.velocity(x, sigma)

    with pytest.raises(ValueError, match=r"needs the gradient of the velocity.*remove torch.no_grad"):
        rolled(Guidance(strength=0.5, at="x0_hat"), linear, detached)


def test_reward_errors_say_what_to_do():
    x, sigma = noise(), torch.ones(3)
    with pytest.raises(
        ValueError, match=r"returned shape \(\) for a batch of 3: return one value per sample"
    ):
        reward_value(lambda x, sigma, condition: x.sum(), x, sigma, None)
    with pytest.raises(ValueError, match=r"not depend on x differentiably: remove torch.no_grad"):
        reward_value_and_gradient(lambda x, s, c: linear(x.detach(), s, c), x, sigma, None)

    class Wrong:
        def value_and_gradient(self, x, sigma, condition):
            return torch.zeros(3), torch.zeros(3, 1)

    with pytest.raises(ValueError, match=r"gradient has shape \(3, 1\), x has \(3, 4, 2, 3\)"):
        reward_value_and_gradient(Wrong(), x, sigma, None)
