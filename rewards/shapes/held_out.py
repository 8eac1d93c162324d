"""Held-out rewards of the shapes suite: exact measurements, never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.shapes.measurement import measure


class AttributeAccuracy:
    """1 if the measured attribute is the one named in the prompt, else 0.

    Args:
        attribute: "size", "colour" or "motion"; None for the mean over the three.
    """

    def __init__(self, attribute: str | None = None) -> None:
        self.attribute = attribute

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B, F, 3, H, W) videos in [0, 1] and B prompts to (B,) accuracies."""
        matches = measure(videos).matches(list(prompts))
        if self.attribute is not None:
            return matches[self.attribute]
        return torch.stack(list(matches.values())).mean(dim=0)
