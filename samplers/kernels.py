"""Transition kernels: every step is a Gaussian whose mean is linear in state, velocity and gradient.

    mean = a x + b v + c gradient        std given

The coefficients depend on (sigma, sigma_next, std) only and are computed once, in float64. The closed forms that
hold for every kernel follow from them: KL = b^2 / (2 std^2) |dv|^2 and v_target = v + (c / b) gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from samplers.guidance import Guidance


class Coefficients(NamedTuple):
    """Coefficients of each step, float64, shape (N,) each."""

    state: torch.Tensor
    velocity: torch.Tensor
    gradient: torch.Tensor
    std: torch.Tensor


def euler_maruyama(
    sigma: torch.Tensor, sigma_next: torch.Tensor, std: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Euler-Maruyama step of dx = (-v + g^2/2 score) D + g dW, with g^2 D = std^2.

    mean = x - D v + (std^2 / 2) score with score = -(x + (1 - t) v) / t.

    Returns:
        coefficients of x and v, and the std of the step (as given).
    """
    step = sigma - sigma_next
    pull = std.square() / (2 * sigma)
    return 1 - pull, -step - pull * (1 - sigma), std


def coefficient_preserving(
    sigma: torch.Tensor, sigma_next: torch.Tensor, std: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flow-CPS step (arXiv 2509.05952): new noise replaces old noise, so that their total stays sigma_next.

    mean = (1 - sigma_next) x0_hat + sqrt(sigma_next^2 - std^2) e_hat
    with x0_hat = x - t v and e_hat = x + (1 - t) v.

    No more noise than sigma_next can be replaced: std is capped there, and is 0 at the last step.

    Returns:
        coefficients of x and v, and the std of the step (capped).
    """
    std = torch.minimum(std, sigma_next)
    kept = (sigma_next.square() - std.square()).sqrt()
    return 1 - sigma_next + kept, kept * (1 - sigma) - (1 - sigma_next) * sigma, std


KERNELS: dict[
    str,
    Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
] = {"euler_maruyama": euler_maruyama, "coefficient_preserving": coefficient_preserving}


def step_coefficients(
    kernel: str, sigmas: torch.Tensor, std: torch.Tensor, guidance: Guidance | None
) -> Coefficients:
    """Coefficients of every step.

    Args:
        kernel: a name in `KERNELS`.
        sigmas: float64, shape (N + 1,), strictly decreasing.
        std: float64, shape (N,): noise requested at each step; 0 gives a step of the probability-flow ODE.
        guidance: None for none. Outside its window the coefficient of the gradient is 0.
    """
    sigma, sigma_next = sigmas[:-1], sigmas[1:]
    state, velocity, std = KERNELS[kernel](sigma, sigma_next, std)
    gradient = torch.zeros_like(std)
    if guidance is not None:
        inside = torch.tensor(guidance.steps(len(std)))
        gradient = torch.where(inside, guidance.shift(std, sigma - sigma_next), gradient)
    return Coefficients(state, velocity, gradient, std)
