"""The losses that methods are made of: pure functions of small tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_loss(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - e, 1 + e)), rho = exp(log_ratio) (PPO, arXiv 1707.06347, eq. 7).

    Args:
        log_ratio: (...) log-probability under the policy, less that under the policy that drew the sample.
        advantages: (...) the same shape.
        clip_range: e.

    Returns:
        (...) losses, differentiable in `log_ratio`.
    """
    ratio = log_ratio.exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of two flat tensors; 0 where one of them is constant."""
    one, two = first.double() - first.double().mean(), second.double() - second.double().mean()
    norm = one.norm() * two.norm()
    return torch.where(norm > 0, (one * two).sum() / norm.clamp_min(1e-300), 0.0)
