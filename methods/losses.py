"""Losses: pure functions of small tensors."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Weighting = Literal["uniform", "t", "t**2", "huber", "ghuber"]


def clipped_loss(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - e, 1 + e)), rho = exp(log_ratio) (PPO, arXiv 1707.06347, eq. 7).

    Args:
        log_ratio: (...) log-probability under the policy minus that under the policy that drew the sample.
        advantages: (...) the same shape.
        clip_range: e.

    Returns:
        (...) losses, differentiable in `log_ratio`.
    """
    ratio = log_ratio.exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


def mean_square(error: Tensor) -> Tensor:
    """(n,) mean over elements of the square of an error (n, ...)."""
    return error.square().flatten(1).mean(dim=1)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of two flat tensors; 0 if either is constant."""
    one, two = first.double() - first.double().mean(), second.double() - second.double().mean()
    norm = one.norm() * two.norm()
    return torch.where(norm > 0, (one * two).sum() / norm.clamp_min(1e-300), 0.0)


def negative_aware_losses(
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    velocity: Tensor,
    old_velocity: Tensor,
    advantages: Tensor,
    beta: float = 0.1,
    advantage_clip: float = 5.0,
) -> Tensor:
    """DiffusionNFT's loss of each sample, (n,) (arXiv 2509.16117, eq. 5, weighted as in the published code).

    An implicit positive policy, v+ = b v + (1 - b) v_old, and a negative one, v- = (1 + b) v_old - b v, both predict
    the clean sample. The loss is r l+ + (1 - r) l-, over b, times the clip of the advantage, where r in [0, 1] is
    the confidence that the sample is good. Each squared error is divided by its own mean absolute error, which is
    detached.

    Args:
        x0: (n, ...) clean samples.
        x_t: (n, ...) the same, noised to t.
        t: (n,) noise levels.
        velocity: (n, ...) v at x_t, differentiable.
        old_velocity: (n, ...) v_old at x_t.
        advantages: (n,).
        beta: b.
        advantage_clip: advantage at which r is 0 or 1.
    """
    level = t.view(-1, *[1] * (x0.ndim - 1))
    share = (advantages / advantage_clip / 2 + 0.5).clamp(0, 1)
    old_velocity = old_velocity.detach()
    step = beta * (velocity - old_velocity)
    positive, negative = (
        _normalised_square(x_t - level * implicit - x0)
        for implicit in (old_velocity + step, old_velocity - step)
    )
    return (share * positive + (1 - share) * negative) / beta * advantage_clip


def _normalised_square(error: Tensor) -> Tensor:
    """(n,) mean square of an error (n, ...) over its mean absolute value, which is detached."""
    size = error.detach().double().abs().flatten(1).mean(dim=1).clamp_min(1e-5).to(error.dtype)
    return mean_square(error) / size


def negative_aware_loss(
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    velocity: Tensor,
    old_velocity: Tensor,
    advantages: Tensor,
    beta: float = 0.1,
    advantage_clip: float = 5.0,
) -> Tensor:
    """The mean of `negative_aware_losses` over the samples: a scalar."""
    return negative_aware_losses(x0, x_t, t, velocity, old_velocity, advantages, beta, advantage_clip).mean()


def matching_log_prob(
    velocity: Tensor,
    target: Tensor,
    t: Tensor,
    weighting: Weighting = "uniform",
    power: float = 0.25,
) -> Tensor:
    """AWM's log-likelihood of each sample, (n,): the weighted flow-matching error, negated (arXiv 2509.25050).

    With q the mean square of v - target: "uniform" is -q, "t" -q t, "t**2" -q t^2, "huber"
    -(sqrt(q + 1e-10) - 1e-5) t, and "ghuber" -((q + 1e-10)^p - 1e-10^p) t / p.

    Args:
        velocity: (n, ...) differentiable.
        target: (n, ...) e - x0.
        t: (n,) noise levels.
        weighting: relative weight of errors at different noise levels.
        power: p of "ghuber".

    Raises:
        ValueError: no such weighting.
    """
    error = mean_square(velocity.double() - target.double())
    level = t.double()
    match weighting:
        case "uniform":
            result = error
        case "t":
            result = error * level
        case "t**2":
            result = error * level.square()
        case "huber":
            result = ((error + 1e-10).sqrt() - 1e-5) * level
        case "ghuber":
            result = ((error + 1e-10).pow(power) - 1e-10**power) * level / power
        case _:
            raise ValueError(f"weighting is {weighting!r}; choose {', '.join(get_args(Weighting))}")
    return -result.float()
