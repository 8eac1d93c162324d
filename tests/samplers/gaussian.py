"""What a sampler does to Gaussian data, without Monte Carlo.

The velocity of Gaussian data is affine in x, so each transition is x -> A x + B + std * noise, and means and
variances propagate exactly. A and B are read off the sampler's own transition, evaluated at two points in
float64.
"""

import math
from collections.abc import Callable

import torch

from samplers import GaussianPolicy, Noise, Sampler, SamplerSettings

MEAN, STD = 0.8, 0.5
POLICY = GaussianPolicy(MEAN, STD)
EULER, PRESERVING = "euler_maruyama", "coefficient_preserving"

Gradient = Callable[[torch.Tensor, float], torch.Tensor]


def sampler_of(
    kind: str, level: float, num_steps: int, kernel: str = EULER, shift: float = 3.0, **settings: object
) -> Sampler:
    noise = Noise(kind=kind, level=level)
    return Sampler(SamplerSettings(num_steps=num_steps, shift=shift, noise=noise, kernel=kernel, **settings))


def steps_as_maps(
    sampler: Sampler, policy: GaussianPolicy = POLICY, gradient: Gradient | None = None
) -> list[tuple[float, float, float]]:
    """(A, B, std) of each step."""
    maps = []
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for index, sigma in enumerate(sampler.sigmas[:-1].tolist()):
        velocity = policy.velocity(points, torch.full((2,), sigma, dtype=torch.float64))
        slope = gradient(points, sigma) if gradient is not None else None
        transition = sampler.transition(points, velocity, index, slope)
        at_zero, at_one = transition.mean.flatten().tolist()
        maps.append((at_one - at_zero, at_zero, float(transition.std.flatten()[0])))
    return maps


def marginals(
    sampler: Sampler, policy: GaussianPolicy = POLICY, gradient: Gradient | None = None
) -> list[tuple[float, float]]:
    """Mean and standard deviation of each of the N + 1 states, starting from standard normal noise."""
    mean, variance = 0.0, 1.0
    states = [(mean, 1.0)]
    for slope, offset, std in steps_as_maps(sampler, policy, gradient):
        mean, variance = slope * mean + offset, slope**2 * variance + std**2
        states.append((mean, math.sqrt(variance)))
    return states


def marginal_error(
    sampler: Sampler,
    policy: GaussianPolicy = POLICY,
    low: float = 0,
    high: float = 1,
    gradient: Gradient | None = None,
    target: GaussianPolicy | None = None,
) -> float:
    """Largest deviation of mean or standard deviation from the exact ones, over states with t in [low, high].

    The exact ones are those of ``policy``'s data, or of ``target``'s where guidance should lead elsewhere.
    """
    worst = 0.0
    for (mean, std), sigma in zip(marginals(sampler, policy, gradient), sampler.sigmas.tolist(), strict=True):
        if low <= sigma <= high:
            exact_mean, exact_std = (target or policy).marginal(sigma)
            worst = max(worst, abs(mean - float(exact_mean)), abs(std - float(exact_std)))
    return worst


def order(coarse: float, fine: float) -> float:
    """Measured order of convergence when the number of steps doubles."""
    return math.log2(coarse / fine)
