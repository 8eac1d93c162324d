"""Sampled marginals against the exact ones of Gaussian data, for every noise and kernel."""

import math
from itertools import pairwise

import pytest
import torch

from samplers import GaussianPolicy, Guidance, draw_noise
from tests.samplers.gaussian import (
    EULER,
    MEAN,
    POLICY,
    PRESERVING,
    STD,
    marginal_error,
    marginals,
    order,
    sampler_of,
    steps_as_maps,
)

WIDE_DATA = GaussianPolicy(0.5, 1.5)

NOISES = [
    ("zero", 0.0),
    ("constant", 0.25),
    ("constant", 1.0),
    ("flow_grpo", 0.7),
    ("linear", 1.0),
    ("memoryless", 1.0),
    ("angle", 0.7),
]

# Where each pair converges at first order: kernel, kind, level, range of t.
FIRST_ORDER = [
    (EULER, "zero", 0.0, (0, 1)),
    (EULER, "constant", 0.25, (0, 1)),
    (EULER, "constant", 1.0, (0, 1)),
    (EULER, "linear", 1.0, (0, 1)),
    # Its first step, at the bound of g, overshoots whatever the step size; then it forgets: see
    # docs/theory.md.
    (EULER, "memoryless", 1.0, (0, 0.75)),
    (PRESERVING, "zero", 0.0, (0, 1)),
    # Near t = 0 constant noise exceeds what the next state holds and is cut.
    (PRESERVING, "constant", 0.25, (0.25, 1)),
    (PRESERVING, "constant", 1.0, (0.25, 1)),
    (PRESERVING, "flow_grpo", 0.7, (0, 1)),
    (PRESERVING, "linear", 1.0, (0, 1)),
    (PRESERVING, "memoryless", 1.0, (0, 1)),
]


@pytest.mark.parametrize("policy", [POLICY, WIDE_DATA], ids=["narrow", "wide"])
@pytest.mark.parametrize(("kernel", "kind", "level", "times"), FIRST_ORDER)
def test_marginals_converge_at_first_order(kernel, kind, level, times, policy):
    errors = [marginal_error(sampler_of(kind, level, n, kernel), policy, *times) for n in (128, 256, 512)]
    assert errors[-1] < 0.012
    for coarse, fine in pairwise(errors):
        assert 0.9 < order(coarse, fine) < 1.12


def test_flow_grpo_under_euler_converges_at_order_level_squared():
    # The bound at t = 1 injects variance `level^2` in a first step of any size, an excess of level^4 / 4 that
    # the drift forgets as (1 - t)^(-level^2): the published sampler at 0.7 converges at order 0.49, not 1.
    errors = [marginal_error(sampler_of("flow_grpo", 0.7, n), WIDE_DATA, 0, 0.75) for n in (128, 256, 512)]
    for coarse, fine in pairwise(errors):
        assert order(coarse, fine) == pytest.approx(0.49, abs=0.03)


@pytest.mark.parametrize("kernel", [EULER, PRESERVING])
def test_a_fixed_angle_keeps_a_bias_at_any_step_size(kernel):
    # Flow-CPS keeps the coefficients of data and noise, not the marginals: its std per step does not shrink
    # with D.
    errors = [marginal_error(sampler_of("angle", 0.7, n, kernel)) for n in (64, 1024)]
    assert errors[1] > 0.05
    assert order(*errors) < 0.5


def test_an_angle_that_shrinks_with_the_step_converges():
    errors = []
    for n in (64, 256, 1024):
        level = 2 / math.pi * math.asin(1 / math.sqrt(n))  # std^2 = sigma_next^2 / N
        errors.append(marginal_error(sampler_of("angle", level, n, PRESERVING, shift=1.0)))
    for coarse, fine in pairwise(errors):
        assert order(coarse, fine) / 2 == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("kernel", [EULER, PRESERVING])
@pytest.mark.parametrize(("kind", "level"), NOISES)
def test_sampled_marginals_match_the_propagated_ones_at_every_step(kind, level, kernel):
    # Chance does not reach 5 standard errors.
    sampler = sampler_of(kind, level, 12, kernel)
    generator = torch.Generator().manual_seed(7)
    count = 40_000
    trajectory = sampler.rollout(POLICY, draw_noise((count // 40, 40), generator), None, generator)
    for state, (mean, std) in zip(trajectory.states, marginals(sampler), strict=True):
        assert state.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(count))
        assert state.std().item() == pytest.approx(std, abs=5 * std / math.sqrt(2 * count))


@pytest.mark.parametrize(
    ("kernel", "kind", "level", "times"), [*FIRST_ORDER, (EULER, "flow_grpo", 0.7, (0, 0.5))]
)
def test_sampled_marginals_match_the_exact_ones(kernel, kind, level, times):
    # Monte-Carlo error plus the measured discretisation error of 300 steps.
    sampler = sampler_of(kind, level, 300, kernel)
    generator = torch.Generator().manual_seed(11)
    count = 20_000
    trajectory = sampler.rollout(POLICY, draw_noise((100, count // 100), generator), None, generator)
    bias = marginal_error(sampler, POLICY, *times)
    assert bias < 0.03
    for index in range(0, 301, 20):
        sigma = float(sampler.sigmas[index])
        if times[0] <= sigma <= times[1]:
            mean, std = (float(value) for value in POLICY.marginal(sigma))
            state = trajectory.state(index)
            assert state.mean().item() == pytest.approx(mean, abs=bias + 5 * std / math.sqrt(count))
            assert state.std().item() == pytest.approx(std, abs=bias + 5 * std / math.sqrt(2 * count))


def test_ode_and_sde_agree_in_distribution():
    ode = marginals(sampler_of("zero", 0.0, 1024))[-1]
    for kind, level in (("constant", 0.25), ("constant", 1.0), ("linear", 1.0), ("memoryless", 1.0)):
        assert marginals(sampler_of(kind, level, 1024))[-1] == pytest.approx(ode, abs=3e-3)


def test_memoryless_noise_makes_the_sample_independent_of_the_initial_noise():
    def correlation(kind: str, level: float) -> float:
        sampler = sampler_of(kind, level, 200)
        product = math.prod(slope for slope, _, _ in steps_as_maps(sampler))
        return product / marginals(sampler)[-1][1]

    assert correlation("zero", 0.0) == pytest.approx(1, abs=1e-6)
    assert abs(correlation("memoryless", 1.0)) < 1e-3
    assert 0.05 < correlation("flow_grpo", 0.7) < 0.9


SLOPE, BETA = 0.6, 0.4
TILTED_MEAN = MEAN + STD**2 * SLOPE / BETA


def soft_value(x, sigma, condition):
    return POLICY.soft_value(x, sigma, SLOPE, BETA)


def soft_value_gradient(x, sigma):
    with torch.enable_grad():
        x = x.clone().requires_grad_(True)
        value = soft_value(x, torch.full((x.shape[0],), sigma, dtype=torch.float64), None)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return gradient


# The drift g^2 grad log h is twice the guided SDE's (g^2 / 2) lam grad r: lam = 2 with log h as the reward.
EXACT = Guidance(strength=2.0)


@pytest.mark.parametrize("kernel", [EULER, PRESERVING])
def test_memoryless_guidance_converges_to_the_tilted_density(kernel):
    errors = []
    for n in (256, 512, 1024):
        sampler = sampler_of("memoryless", 1.0, n, kernel, shift=1.0, guidance=EXACT)
        tilted = GaussianPolicy(TILTED_MEAN, STD)
        errors.append(marginal_error(sampler, POLICY, 0, 0.75, soft_value_gradient, tilted))
    assert errors[-1] < 5e-3
    for coarse, fine in pairwise(errors):
        assert 0.9 < order(coarse, fine) < 1.15


def test_memoryless_guidance_draws_from_the_tilted_density():
    sampler = sampler_of("memoryless", 1.0, 300, shift=1.0, guidance=EXACT)
    generator = torch.Generator().manual_seed(3)
    count = 20_000
    noise = draw_noise((count, 1), generator)
    final = sampler.rollout(POLICY, noise, None, generator, guide=soft_value, keep="final").final
    assert final.mean().item() == pytest.approx(TILTED_MEAN, abs=5e-3 + 5 * STD / math.sqrt(count))
    assert final.std().item() == pytest.approx(STD, abs=5e-3 + 5 * STD / math.sqrt(2 * count))


def test_other_noise_does_not_tilt_exactly():
    # The initial noise is not forgotten, so the tilt acts on part of the path only.
    sampler = sampler_of("constant", 0.25, 512, shift=1.0, guidance=EXACT)
    mean, _ = marginals(sampler, gradient=soft_value_gradient)[-1]
    assert MEAN + 0.01 < mean < TILTED_MEAN - 0.1


def test_soft_value_is_the_log_expectation_of_the_posterior():
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    sigma = torch.tensor([0.6], dtype=torch.float64)
    mean, variance = POLICY.posterior(x, sigma)
    draws = (
        mean + variance.sqrt() * torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)).double()
    )
    estimate = (SLOPE * draws.sum(1) / BETA).exp().mean().log()
    assert soft_value(x, sigma, None).item() == pytest.approx(estimate.item(), abs=0.02)
