"""Which samples of a group are trained on, by their score. Groups are never compared with one another."""

from __future__ import annotations

import torch
from torch import Tensor


def best_of_each(scores: Tensor, group_size: int, best: int, worst: int = 0) -> Tensor:
    """Positions of the best and the worst of each group.

    Args:
        scores: (B,), the members of a group side by side. Ties go to the earlier sample.
        group_size: members of a group.
        best: how many of the best to take.
        worst: how many of the worst; together at most `group_size`.

    Returns:
        (S,) positions on the CPU, ascending.

    Raises:
        ValueError: more samples are requested than a group has.
    """
    if best + worst > group_size:
        raise ValueError(f"{best} best and {worst} worst of {group_size}: give fewer, or a larger group")
    order = scores.view(-1, group_size).argsort(dim=1, descending=True, stable=True)
    chosen = torch.cat([order[:, :best], order[:, group_size - worst :]], dim=1)
    first = torch.arange(0, len(scores), group_size, device=chosen.device).unsqueeze(1)
    return (chosen + first).flatten().sort().values.cpu()
