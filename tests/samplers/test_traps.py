"""One test for each trap of public code that concerns sampling (DESIGN.md section 4)."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from samplers import (
    GaussianPolicy,
    Guidance,
    Noise,
    NonFiniteError,
    Sampler,
    SamplerSettings,
    build,
    draw_noise,
    scheduler_sigmas,
    shape_gradient,
    sigma_schedule,
)

POLICY = GaussianPolicy(0.3, 0.7)
SHAPE = (3, 4, 2, 6, 6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
    return x.flatten(1).mean(1)


def failing(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
    values = linear(x, sigma, condition)
    return torch.where(sigma < 0.5, values * torch.nan, values)


def test_a_failed_reward_raises_and_names_the_step_and_the_sample():
    sampler = build("euphonium", guidance=0.0)
    first = int((sampler.sigmas < 0.5).nonzero()[0])
    with pytest.raises(NonFiniteError, match=rf"reward is NaN .* step {first} .*samples \[0, 1, 2\]"):
        sampler.rollout(POLICY, draw_noise(SHAPE, generator()), None, generator(), failing)


def test_a_reward_that_raises_is_not_swallowed():
    def broken(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        raise RuntimeError("judge unreachable")

    with pytest.raises(RuntimeError, match="judge unreachable"):
        build("euphonium").rollout(POLICY, draw_noise(SHAPE, generator()), None, generator(), broken)


@pytest.mark.parametrize("what", ["velocity", "gradient", "last reward"])
def test_nan_and_infinity_raise_at_the_step_where_they_appear(what):
    sampler = build("euphonium")
    bad_step = 16 if what == "last reward" else 13

    def at_bad(sigma: torch.Tensor) -> bool:
        return abs(float(sigma[0]) - float(sampler.sigmas[bad_step])) < 1e-6

    def policy(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        velocity = POLICY.velocity(x, sigma)
        if what == "velocity" and at_bad(sigma):
            velocity[1, 0, 0, 0, 0] = torch.inf
        return velocity

    class Reward:
        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
            values = linear(x, sigma, condition)
            return values * torch.inf if what == "last reward" and at_bad(sigma) else values

        def value_and_gradient(
            self, x: torch.Tensor, sigma: torch.Tensor, condition: object
        ) -> tuple[torch.Tensor, torch.Tensor]:
            gradient = torch.ones_like(x)
            if what == "gradient" and at_bad(sigma):
                gradient[1, 0, 0, 0, 0] = torch.nan
            return self(x, sigma, condition), gradient

    name = {"velocity": "the velocity", "gradient": "gradient", "last reward": "the reward"}[what]
    with pytest.raises(NonFiniteError, match=rf"{name} is NaN or infinite at step {bad_step}") as error:
        sampler.rollout(policy, draw_noise(SHAPE, generator()), None, generator(), Reward())
    assert isinstance(error.value, FloatingPointError)
    if what != "last reward":
        assert "samples [1]" in str(error.value)


@pytest.mark.parametrize("first", [1.0, 0.99999994, 1 - 1e-12])
@pytest.mark.parametrize("kind", ["flow_grpo", "memoryless"])
def test_noise_is_bounded_at_the_first_step_whatever_its_last_bit(kind, first):
    schedule = (first, 0.9, 0.6, 0.0)
    sampler = Sampler(SamplerSettings(num_steps=3, schedule=schedule, noise=Noise(kind=kind, level=1.0)))
    published = 1.0 if kind == "flow_grpo" else math.sqrt(2)
    assert sampler.coefficients.std[0].item() == pytest.approx(published, abs=1e-6)
    x = draw_noise(SHAPE, generator())
    transition = sampler.transition(x, POLICY.velocity(x, torch.full((3,), first)), 0)
    assert torch.isfinite(transition.log_prob(transition.sample(generator()))).all()


def test_the_policy_receives_the_exact_sigma_and_no_integer_timestep():
    seen: list[torch.Tensor] = []

    def policy(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        seen.append(sigma)
        return POLICY.velocity(x, sigma)

    sampler = build("ode", num_steps=7, shift=5.0)
    sampler.rollout(policy, draw_noise(SHAPE, generator()))
    for sigma, exact in zip(seen, sampler.sigmas, strict=False):
        assert sigma.dtype == torch.float32
        assert torch.equal(sigma, exact.float().expand(3))
    timesteps = 1000 * sampler.sigmas
    assert (timesteps - timesteps.floor()).max() > 0.5  # truncation would have lost this much


def test_the_default_schedule_of_diffusers_is_not_the_shifted_linear_one():
    own = scheduler_sigmas(FlowMatchEulerDiscreteScheduler(shift=3.0), 10)
    assert own[-2].item() == pytest.approx(0.0089, abs=1e-4)
    assert sigma_schedule(10, 3.0)[-2].item() == pytest.approx(0.25)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["dance_grpo", "flow_grpo", "euphonium"])
def test_the_stored_state_is_what_was_scored(name, dtype):
    sampler = build(name, num_steps=8)
    noise = draw_noise(SHAPE, generator())
    trajectory = sampler.rollout(POLICY, noise, None, generator(1), reward=linear, storage_dtype=dtype)
    assert trajectory.states.dtype == dtype
    assert trajectory.log_probs.dtype == torch.float32
    for index in range(8):
        x = trajectory.state(index)
        velocity = POLICY.velocity(x, torch.full((3,), float(sampler.sigmas[index])))
        log_prob = sampler.transition(x, velocity, index).log_prob(trajectory.state(index + 1))
        assert torch.equal(log_prob, trajectory.log_probs[index])


def test_a_step_of_half_precision_states_is_done_in_float32():
    sampler = build("dance_grpo")
    x, v = (draw_noise(SHAPE, generator(seed)).bfloat16() for seed in (0, 1))
    half, full = sampler.transition(x, v, 3), sampler.transition(x.float(), v.float(), 3)
    assert half.mean.dtype == half.std.dtype == torch.float32
    assert torch.equal(half.mean, full.mean)
    assert torch.equal(half.log_prob(x), full.log_prob(x.float()))


def test_normalised_guidance_does_not_depend_on_neighbours():
    gradient = draw_noise(SHAPE, generator())
    loud = gradient.clone()
    loud[1:] *= 1000
    own = Guidance(strength=1.0, normalisation="sample")
    batch = Guidance(strength=1.0, normalisation="batch")
    assert torch.equal(shape_gradient(gradient, own)[0], shape_gradient(loud, own)[0])
    assert not torch.allclose(shape_gradient(gradient, batch)[0], shape_gradient(loud, batch)[0])


def test_the_last_step_keeps_its_noise_under_the_sde_and_has_none_under_cps():
    for name in ("dance_grpo", "flow_grpo", "euphonium"):
        assert build(name).coefficients.std[-1] > 0
        assert build(name).stochastic(build(name).num_steps - 1)
    cps = build("cps")
    assert cps.coefficients.std[-1] == 0
    assert not cps.stochastic(cps.num_steps - 1)
    trajectory = cps.rollout(POLICY, draw_noise(SHAPE, generator()), None, generator())
    assert trajectory.log_probs[-1].isnan().all()
    assert not trajectory.log_probs[:-1].isnan().any()
    x = trajectory.state(cps.num_steps - 1)
    with pytest.raises(ValueError, match="no density"):
        cps.transition(x, x, cps.num_steps - 1).log_prob(x)


def test_noise_comes_from_the_generator_alone():
    sampler = build("dance_grpo", num_steps=4)
    noise = draw_noise(SHAPE, generator())
    before = torch.get_rng_state()
    first, second, same = (sampler.rollout(POLICY, noise, None, generator(seed)).final for seed in (1, 2, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, same)
    assert not torch.allclose(first, second)
    assert (first[0] - first[1]).std() > 0.1  # samples of a batch get noise of their own


def test_the_kl_term_reaches_the_network():
    weight = torch.ones((), requires_grad=True)
    x = draw_noise(SHAPE, generator())
    velocity = POLICY.velocity(x, torch.full((3,), 0.5))
    build("dance_grpo").kl_divergence(weight * velocity, 0.5 * velocity, 8).mean().backward()
    assert weight.grad is not None
    assert weight.grad > 0


def test_the_log_probability_reaches_the_network():
    sampler = build("euphonium")
    weight = torch.ones((), requires_grad=True)
    x = draw_noise(SHAPE, generator())
    velocity = POLICY.velocity(x, torch.full((3,), float(sampler.sigmas[13])))
    guided = sampler.transition(x, velocity, 13, torch.ones_like(x))
    x_next = guided.sample(generator())
    sampler.transition(x, weight * velocity, 13, torch.ones_like(x)).log_prob(x_next).sum().backward()
    step, std = sampler.coefficients.velocity[13], sampler.coefficients.std[13]
    expected = ((x_next - guided.unguided_mean) * step * velocity / std**2).flatten(1).mean(1).sum()
    assert weight.grad.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_group_rolled_out_at_once_equals_its_members_one_by_one():
    for name in ("euphonium", "flow_grpo", "cps"):
        sampler = build(name, num_steps=6)
        noise = draw_noise((1, *SHAPE[1:]), generator()).expand(4, -1, -1, -1, -1)
        together = sampler.rollout(POLICY, noise, None, [generator(seed) for seed in range(4)], linear)
        for seed in range(4):
            alone = sampler.rollout(POLICY, noise[:1], None, [generator(seed)], linear)
            assert torch.equal(together.states[:, seed], alone.states[:, 0])
            torch.testing.assert_close(
                together.log_probs[:, seed], alone.log_probs[:, 0], atol=1e-6, rtol=1e-6, equal_nan=True
            )
        assert not torch.allclose(together.final[0], together.final[1])
