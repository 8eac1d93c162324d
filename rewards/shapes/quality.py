"""Motion and visual quality of a shapes video: without reference to the prompt or any learned part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.shapes.measurement import centroids, foreground


class MotionQuality:
    """Steady object, steady motion, still background: exp(-penalties), in [0, 1].

    Penalties: the object's size changing from frame to frame, its centre leaving a straight even path, the ground
    flickering, and an object too faint to see. Clean renderings score 0.86 to 1, 0.95 on average; noise near 0.
    """

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG002 - a reward's signature
        """(B, F, 3, H, W) videos in [0, 1] to (B,) qualities; the prompts are not read.

        Raises:
            ValueError: there are too few frames to distinguish steady motion from a jump.
        """
        if videos.shape[1] < 3:
            raise ValueError(f"videos have {videos.shape[1]} frames; motion quality needs at least 3")
        mask = foreground(videos)
        row, column, area = centroids(mask)
        side = videos.shape[-1]
        mean_area = area.mean(dim=1)
        unsteady_size = area.std(dim=1) / mean_area.clamp_min(1.0)
        path = torch.stack([row, column], dim=-1)
        # The second difference of an evenly moving centre is zero.
        jerk = path.diff(n=2, dim=1).norm(dim=-1).mean(dim=1) / side
        ground = (1 - mask[:, 1:]) * (1 - mask[:, :-1])
        changes = (videos.diff(dim=1).abs().mean(dim=2) * ground).sum(dim=(1, 2, 3))
        flicker = changes / ground.sum(dim=(1, 2, 3)).clamp_min(1.0)  # an object may leave no ground at all
        faint = (1 - mean_area / (0.015 * side * videos.shape[-2])).clamp_min(0)
        return torch.exp(-(unsteady_size + 10 * jerk + 15 * flicker + 3 * faint))
