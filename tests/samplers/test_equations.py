"""The step, the KL and the distillation target against the equations, written out in float64."""

import itertools
import math

import pytest
import torch

from samplers import Guidance, Noise, Sampler, SamplerSettings, build
from tests.samplers.gaussian import EULER, POLICY, PRESERVING, sampler_of

LEVELS = [("zero", 0.0), ("constant", 0.3), ("flow_grpo", 0.7), ("linear", 0.9), ("memoryless", 1.0)]
STRENGTH, SCALE = 0.32, 0.7


def diffusion(kind: str, level: float, t: float, sigma_1: float) -> float:
    bounded = max(1 - t, 1 - sigma_1)
    return {
        "zero": 0.0,
        "constant": level,
        "flow_grpo": level * math.sqrt(t / bounded),
        "linear": level * sigma_1 * t,
        "memoryless": math.sqrt(2 * t / bounded),
    }[kind]


def tensors(count: int = 3, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape or (2, 3, 4), generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize(("kind", "level"), LEVELS)
def test_euler_maruyama_is_the_guided_sde(kind, level):
    sampler = sampler_of(kind, level, 7, guidance=Guidance(strength=STRENGTH) if level else None)
    x, v, r = tensors()
    for index in range(7):
        t, t_next = sampler.sigmas[index : index + 2].tolist()
        g, step = diffusion(kind, level, t, float(sampler.sigmas[1])), t - t_next
        score = -(x + (1 - t) * v) / t
        transition = sampler.transition(x, v, index, r if level else None)
        unguided = x - step * v + g**2 * step / 2 * score
        torch.testing.assert_close(transition.unguided_mean, unguided, rtol=1e-12, atol=1e-12)
        guided = unguided + g**2 * step / 2 * STRENGTH * r
        torch.testing.assert_close(transition.mean, guided, rtol=1e-12, atol=1e-12)
        assert transition.std.flatten().tolist() == pytest.approx([g * math.sqrt(step)] * 2, rel=1e-12)


@pytest.mark.parametrize("level", [0.0, 0.7, 1.0, 1.2])
def test_coefficient_preserving_is_flow_cps(level):
    sampler = sampler_of("angle", level, 7, PRESERVING)
    x, v, _ = tensors()
    for index in range(7):
        t, t_next = sampler.sigmas[index : index + 2].tolist()
        std = t_next * math.sin(level * math.pi / 2)
        mean = (1 - t_next) * (x - t * v) + math.sqrt(t_next**2 - std**2) * (x + (1 - t) * v)
        transition = sampler.transition(x, v, index)
        torch.testing.assert_close(transition.mean, mean, rtol=1e-12, atol=1e-12)
        assert transition.std.flatten().tolist() == pytest.approx([std] * 2, abs=1e-15)


@pytest.mark.parametrize("kernel", [EULER, PRESERVING])
def test_deterministic_steps_of_every_kernel_are_euler_steps_of_the_ode(kernel):
    sampler = sampler_of("zero", 0.0, 5, kernel)
    x, v, _ = tensors()
    for index in range(5):
        step = float(sampler.sigmas[index] - sampler.sigmas[index + 1])
        torch.testing.assert_close(sampler.transition(x, v, index).mean, x - step * v, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("kernel", "kind", "level"), [(EULER, "constant", 0.25), (EULER, "zero", 0.0), (PRESERVING, "angle", 0.7)]
)
def test_absolute_guidance_shifts_by_scale_times_step(kernel, kind, level):
    sampler = sampler_of(kind, level, 6, kernel, guidance=Guidance(scale=SCALE))
    x, v, r = tensors()
    for index in range(6):
        transition = sampler.transition(x, v, index, r)
        step = float(sampler.sigmas[index] - sampler.sigmas[index + 1])
        torch.testing.assert_close(
            transition.mean - transition.unguided_mean, SCALE * step * r, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(("kernel", "kind", "level"), [(EULER, "flow_grpo", 0.7), (PRESERVING, "angle", 0.7)])
def test_relative_guidance_shifts_by_half_the_variance(kernel, kind, level):
    sampler = sampler_of(kind, level, 6, kernel, guidance=Guidance(strength=STRENGTH))
    x, v, r = tensors()
    for index in range(6):
        transition = sampler.transition(x, v, index, r)
        shift = transition.std.square() / 2 * STRENGTH * r
        torch.testing.assert_close(transition.mean - transition.unguided_mean, shift, rtol=1e-9, atol=1e-12)


def test_published_euphonium_guidance_is_a_hundredth_of_the_step():
    sampler = build("euphonium")
    x, v, r = tensors()
    for index in range(16):
        transition = sampler.transition(x, v, index, r)
        step = float(sampler.sigmas[index] - sampler.sigmas[index + 1]) if index >= 12 else 0.0
        torch.testing.assert_close(
            transition.mean - transition.unguided_mean, 0.01 * step * r, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("score_mean", ["unguided", "guided"])
def test_log_probability_is_the_gaussian_density(reduction, score_mean):
    guidance = Guidance(strength=5.0)
    sampler = sampler_of(
        "constant", 0.4, 6, guidance=guidance, score_mean=score_mean, log_prob_reduction=reduction
    )
    x, v, r = tensors()
    transition = sampler.transition(x, v, 2, r)
    x_next = transition.sample(torch.Generator().manual_seed(1))
    mean = transition.mean if score_mean == "guided" else transition.unguided_mean
    density = torch.distributions.Normal(mean, transition.std).log_prob(x_next).flatten(1)
    expected = density.mean(1) if reduction == "mean" else density.sum(1)
    torch.testing.assert_close(transition.log_prob(x_next), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("kernel", "kind", "level"), [(EULER, "flow_grpo", 0.7), (PRESERVING, "angle", 0.7)])
def test_kl_is_that_of_the_two_transitions(kernel, kind, level, reduction):
    sampler = sampler_of(kind, level, 6, kernel, log_prob_reduction=reduction)
    x, v, other = tensors()
    for index in range(5):
        first, second = sampler.transition(x, v, index), sampler.transition(x, other, index)
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(first.mean, first.std), normal(second.mean, second.std))
        expected = kl.flatten(1).mean(1) if reduction == "mean" else kl.flatten(1).sum(1)
        torch.testing.assert_close(sampler.kl_divergence(v, other, index), expected, rtol=1e-9, atol=1e-12)


def test_kl_of_euler_maruyama_in_closed_form():
    eta = 0.25
    sampler = sampler_of("constant", eta, 8)
    _, v, other = tensors()
    for index in range(8):
        t, t_next = sampler.sigmas[index : index + 2].tolist()
        factor = (t - t_next) * (1 + eta**2 * (1 - t) / (2 * t)) ** 2 / (2 * eta**2)
        expected = factor * (v - other).square().flatten(1).mean(1)
        torch.testing.assert_close(sampler.kl_divergence(v, other, index), expected, rtol=1e-12, atol=0)
        plain = sampler.kl_divergence(v, other, index, "velocity")
        torch.testing.assert_close(plain, (v - other).square().flatten(1).mean(1), rtol=1e-12, atol=0)


def test_kl_has_a_gradient():
    sampler = sampler_of("constant", 0.25, 8)
    _, v, other = tensors()
    v.requires_grad_(True)
    divergence = sampler.kl_divergence(v, other, 3)
    assert divergence.requires_grad
    (gradient,) = torch.autograd.grad(divergence.sum(), v)
    factor = (sampler.coefficients.velocity / sampler.coefficients.std)[3].square()
    torch.testing.assert_close(gradient, factor * (v - other) / v[0].numel(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "kind", "level"),
    [(EULER, "constant", 0.25), (EULER, "memoryless", 1.0), (PRESERVING, "angle", 0.7)],
)
def test_the_target_velocity_moves_unguided_where_the_old_one_moves_guided(kernel, kind, level):
    sampler = sampler_of(kind, level, 6, kernel, guidance=Guidance(strength=STRENGTH, start=2))
    x, v, r = tensors()
    for index in range(6):
        target = sampler.distillation_target(v, r, index)
        assert torch.equal(target, v) == (not sampler.guided(index))
        torch.testing.assert_close(
            sampler.transition(x, target, index).mean,
            sampler.transition(x, v, index, r).mean,
            rtol=1e-10,
            atol=1e-12,
        )


def test_the_target_velocity_in_closed_form():
    eta = 0.25
    sampler = sampler_of("constant", eta, 8, guidance=Guidance(strength=STRENGTH))
    _, v, r = tensors()
    for index in range(8):
        t = float(sampler.sigmas[index])
        expected = v - eta**2 / 2 * STRENGTH * r / (1 + eta**2 * (1 - t) / (2 * t))
        torch.testing.assert_close(sampler.distillation_target(v, r, index), expected, rtol=1e-12, atol=1e-12)


def test_minimising_the_kl_to_the_guided_transition_recovers_the_target():
    # Gaussian data, linear reward: what autograd finds from the transitions alone is the closed form.
    sampler = build("euphonium", guidance=Guidance(strength=3.0))
    index, slope = 9, 0.7
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    old = POLICY.velocity(x, torch.full((4,), float(sampler.sigmas[index]), dtype=torch.float64))
    gradient = torch.full_like(x, slope)
    guided = sampler.transition(x, old, index, gradient)
    velocity = old.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([velocity], lr=1, max_iter=50, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        own = sampler.transition(x, velocity, index)
        divergence = ((guided.mean - own.mean).square() / (2 * own.std.square())).sum()
        divergence.backward()
        return divergence

    optimiser.step(closure)
    target = sampler.distillation_target(old, gradient, index)
    torch.testing.assert_close(velocity.detach(), target, rtol=1e-6, atol=1e-8)
    own_kl = sampler.kl_divergence(old, target, index)
    shift = (guided.mean - guided.unguided_mean).square() / (2 * guided.std.square())
    torch.testing.assert_close(own_kl, shift.flatten(1).mean(1), rtol=1e-9, atol=1e-14)


def test_mixed_steps_equal_single_ones_bit_for_bit():
    for kernel, (kind, level) in itertools.product([EULER, PRESERVING], [("angle", 0.7), ("flow_grpo", 0.7)]):
        sampler = sampler_of(kind, level, 9, kernel, guidance=Guidance(strength=STRENGTH, start=3))
        x, v, r = (tensor.float() for tensor in tensors(3, 4, 3, 2, 5, 5))
        steps = torch.tensor([7, 0, 3, 0])
        mixed = sampler.transition(x, v, steps, r)
        for row, step in enumerate(steps.tolist()):
            single = sampler.transition(x[row : row + 1], v[row : row + 1], step, r[row : row + 1])
            assert torch.equal(mixed.mean[row], single.mean[0])
            assert torch.equal(mixed.std[row], single.std[0])


def test_settings_are_the_only_difference_between_samplers():
    euphonium, dance = build("euphonium").settings, build("dance_grpo").settings
    assert euphonium.replace(guidance=None) == dance
    flow = build("flow_grpo").settings
    changed = euphonium.replace(guidance=None, noise=flow.noise, num_steps=10, shift=3.0)
    assert changed == flow
    assert Noise(kind="memoryless") != Noise(kind="flow_grpo", level=math.sqrt(2))
    memoryless = Sampler(flow.replace(noise=Noise(kind="memoryless"))).coefficients
    scaled = Sampler(flow.replace(noise=Noise(kind="flow_grpo", level=math.sqrt(2)))).coefficients
    assert all(torch.equal(a, b) for a, b in zip(memoryless, scaled, strict=True))
    assert isinstance(euphonium, SamplerSettings)
