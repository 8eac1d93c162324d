"""How different the videos of one prompt are from each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Diversity:
    """How different a video is from the others of the same prompt in its batch.

    Root-mean-square pixel distance, at a quarter of the resolution, averaged over the batch's other videos of
    the same prompt; 0 if there is no other. A policy that collapses to one video per prompt scores 0.
    """

    comparing = True

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B, F, 3, H, W) videos in [0, 1] and B prompts to (B,) mean distances."""
        small = F.avg_pool2d(videos.flatten(0, 1), kernel_size=4).unflatten(0, videos.shape[:2]).flatten(1)
        result = torch.zeros(len(prompts), device=videos.device)
        for prompt in dict.fromkeys(prompts):
            rows = torch.tensor(
                [i for i, other in enumerate(prompts) if other == prompt], device=videos.device
            )
            if len(rows) > 1:
                # Not through a matrix product, which large groups would take: equal videos have distance 0.
                distance = torch.cdist(small[rows], small[rows], compute_mode="donot_use_mm_for_euclid_dist")
                distance = distance / small.shape[1] ** 0.5
                result[rows] = distance.sum(dim=1) / (len(rows) - 1)
        return result
