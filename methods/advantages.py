"""Group-relative advantages (GRPO)."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.parts import AdvantageSettings


def group_advantages(rewards: Tensor, group_size: int, settings: AdvantageSettings) -> Tensor:
    """A = (r - mean of the group) / (std + eps), clipped.

    Computed in float64, where a group of equal rewards has a deviation of exactly 0 and therefore advantages of
    exactly 0. In float32 with eps 1e-8, rounding alone gives up to 0.92.

    Args:
        rewards: (..., B), the members of a group side by side; leading dimensions (steps) are treated separately.
        group_size: members of a group.
        settings: which std, and its eps; the clip.

    Returns:
        Advantages, shape of `rewards`, float32.

    Raises:
        ValueError: B is not a multiple of `group_size`.
    """
    if rewards.shape[-1] % group_size:
        raise ValueError(f"{rewards.shape[-1]} rewards do not divide into groups of {group_size}")
    groups = rewards.double().unflatten(-1, (-1, group_size))
    centred = groups - groups.mean(dim=-1, keepdim=True)
    correction = 1 if settings.unbiased else 0
    if settings.std == "group":
        std = groups.std(dim=-1, keepdim=True, correction=correction)
    else:
        std = groups.std(dim=(-2, -1), keepdim=True, correction=correction)
    equal = groups.amax(dim=-1, keepdim=True) == groups.amin(dim=-1, keepdim=True)
    advantages = torch.where(equal, 0.0, centred / (std + settings.eps))
    return advantages.clamp(-settings.clip, settings.clip).flatten(-2).float()
