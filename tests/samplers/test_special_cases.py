"""Methods as special cases of one sampler, bit for bit, and the ODE against diffusers' own scheduler."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from samplers import (
    GaussianPolicy,
    Guidance,
    Noise,
    Sampler,
    SamplerSettings,
    Trajectory,
    build,
    draw_noise,
    scheduler_sigmas,
)

POLICY = GaussianPolicy(0.3, 0.7)


def wiggly(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
    """A velocity that is neither affine nor elementwise in x."""
    mixed = torch.roll(x, 1, dims=-1).sin() + x.tanh()
    return mixed * (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)))


def quadratic(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
    return -(x - 1).square().flatten(1).mean(1)


def roll(sampler: Sampler, reward: object = None) -> Trajectory:
    generator = torch.Generator().manual_seed(4)
    noise = draw_noise((3, 4, 2, 5, 5), generator)
    return sampler.rollout(wiggly, noise, None, generator, reward)


def assert_same(first: Trajectory, second: Trajectory) -> None:
    assert torch.equal(first.states, second.states)
    assert torch.equal(first.log_probs, second.log_probs)


def test_euphonium_without_guidance_is_dance_grpo_bit_for_bit():
    euphonium = build("euphonium", guidance=0.0)
    assert_same(roll(euphonium, quadratic), roll(build("dance_grpo")))
    assert not any(euphonium.guided_steps)


def test_euphonium_with_flow_grpo_noise_is_flow_grpo_bit_for_bit():
    flow = build("flow_grpo")
    settings = build("euphonium").settings.replace(
        noise=flow.settings.noise, num_steps=10, shift=3.0, guidance=Guidance(strength=0.0)
    )
    assert_same(roll(Sampler(settings), quadratic), roll(flow))


def test_dance_grpo_without_noise_is_the_ode_bit_for_bit():
    first, second = roll(build("dance_grpo", noise_level=0.0)), roll(build("ode"))
    assert torch.equal(first.states, second.states)
    assert first.log_probs.isnan().all()
    assert second.log_probs.isnan().all()


def test_flow_grpo_at_root_two_is_memoryless_bit_for_bit():
    flow = build("flow_grpo", num_steps=9, shift=2.0, noise_level=2**0.5)
    assert_same(roll(flow), roll(build("memoryless", num_steps=9, shift=2.0)))


def test_absolute_and_relative_guidance_agree_where_both_act():
    relative = build("euphonium")
    absolute = build("euphonium", guidance=Guidance(scale=0.01, start=12))
    torch.testing.assert_close(
        roll(relative, quadratic).states, roll(absolute, quadratic).states, atol=2e-6, rtol=0
    )


def test_guidance_raises_the_reward_and_every_kernel_follows_it():
    for name in ("euphonium", "cps", "flow_grpo"):
        plain = roll(build(name, guidance=0.0), quadratic).process_rewards[-1]
        guided = roll(build(name, guidance=200.0), quadratic).process_rewards[-1]
        assert (guided > plain + 0.05).all()
    steered = roll(build("ode", guidance=Guidance(scale=20.0)), quadratic).process_rewards[-1]
    assert (steered > roll(build("ode"), quadratic).process_rewards[-1] + 0.05).all()


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("num_steps", [4, 10])
def test_the_ode_is_diffusers_flow_matching_euler(num_steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    sigmas = scheduler_sigmas(scheduler, num_steps)
    sampler = Sampler(
        SamplerSettings(num_steps=num_steps, schedule=tuple(sigmas.tolist()), noise=Noise(kind="zero"))
    )
    noise = draw_noise((2, 4, 3, 5, 5), torch.Generator().manual_seed(0))
    ours = sampler.rollout(wiggly, noise).final
    scheduler.set_timesteps(num_steps)
    x = noise
    for step, timestep in enumerate(scheduler.timesteps):
        sigma = torch.full((2,), float(sampler.sigmas[step]))
        x = scheduler.step(wiggly(x, sigma, None), timestep, x, return_dict=False)[0]
    torch.testing.assert_close(ours, x, atol=5e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers
def test_a_schedulers_own_sigmas():
    wan = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    sigmas = scheduler_sigmas(wan, 8)
    assert sigmas.shape == (9,)
    assert wan.num_inference_steps is None  # the scheduler itself is left alone
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert scheduler_sigmas(dynamic, 8, mu=2.0)[4] > scheduler_sigmas(dynamic, 8, mu=1.0)[4]
    with pytest.raises(TypeError, match="DDIMScheduler has no sigmas: give a flow-matching scheduler"):
        scheduler_sigmas(DDIMScheduler(), 8)
    with pytest.raises(ValueError, match=r"sigmas lie in \[0, 1\]"):
        scheduler_sigmas(EulerDiscreteScheduler(), 8)


def test_the_stored_trajectory_rescored_gives_ratio_one_at_every_step_and_batch_split():
    for name in ("euphonium", "flow_grpo", "dance_grpo", "cps", "memoryless"):
        sampler = build(name, num_steps=8)
        trajectory = roll(sampler, quadratic)
        for index in range(8):
            if not sampler.stochastic(index):
                continue
            for rows in (slice(0, 3), slice(1, 2)):
                x, x_next = trajectory.state(index)[rows], trajectory.state(index + 1)[rows]
                velocity = wiggly(x, torch.full((len(x),), float(sampler.sigmas[index])), None)
                log_prob = sampler.transition(x, velocity, index).log_prob(x_next)
                ratio = (log_prob - trajectory.log_probs[index, rows]).exp()
                torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


def test_a_guided_step_is_reproduced_from_the_stored_gradient():
    sampler = build(
        "euphonium", guidance=Guidance(strength=9.0, normalisation="sample", clip=0.02, interval=3)
    )
    generator, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    noise = draw_noise((2, 3, 4, 4), generator)
    draw_noise((2, 3, 4, 4), again)
    trajectory = sampler.rollout(POLICY, noise, None, generator, quadratic)
    assert sorted(trajectory.reward_gradients) == [0, 3, 6, 9, 12, 15]
    for index in range(16):
        x = trajectory.state(index)
        velocity = POLICY.velocity(x, torch.full((2,), float(sampler.sigmas[index])))
        gradient = trajectory.reward_gradients.get(index)
        transition = sampler.transition(x, velocity, index, gradient)
        assert torch.equal(transition.sample(again), trajectory.state(index + 1))


def test_on_policy_scoring_uses_the_guided_mean():
    settings = build("euphonium", guidance=50.0).settings
    unguided, guided = (
        roll(Sampler(settings.replace(score_mean=mean)), quadratic) for mean in ("unguided", "guided")
    )
    assert torch.equal(unguided.states, guided.states)
    assert (guided.log_probs > unguided.log_probs).float().mean() > 0.6
    # A sample drawn from the density that scores it has mean energy -1/2 per element.
    std = Sampler(settings).coefficients.std
    energy = guided.log_probs.double() + std.log()[:, None] + 0.5 * torch.tensor(2 * torch.pi).log()
    assert energy.mean().item() == pytest.approx(-0.5, abs=0.05)
