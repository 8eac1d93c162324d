"""Exact, programmatic measurement of a shapes video: size by matching, colour by hue, motion by tracking.

These are the held-out judges: nothing here is learned, and nothing is ever trained on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewards.shapes.attributes import ATTRIBUTES, COLOURS, MOTIONS, SIZES, disc, parse_caption

#: Chroma (largest minus smallest colour channel) between which a pixel goes from grey ground to object. A ball's
#: chroma is about 0.7, so a pixel that it half covers counts half.
_GROUND_CHROMA, _OBJECT_CHROMA = 0.2, 0.5
#: Fraction of the frame that must be object, in at least half of the frames, for an object to count as visible.
_SMALLEST_AREA = 0.015
#: Mean displacement per frame, as a fraction of the frame's side, below which nothing moves.
_SLOWEST = 0.012


@dataclass(frozen=True)
class Measurement:
    """The measured content of B videos.

    `labels[attribute]` is a (B,) int64 tensor of positions in `ATTRIBUTES[attribute]`; -1 where
    nothing can be seen (no object, or no motion), which matches no caption.
    """

    labels: dict[str, Tensor]

    def matches(self, prompts: list[str] | tuple[str, ...]) -> dict[str, Tensor]:
        """Per attribute, a (B,) float tensor: 1 if the video matches its prompt, else 0."""
        said = [parse_caption(prompt) for prompt in prompts]
        result = {}
        for attribute, words in ATTRIBUTES.items():
            labels = self.labels[attribute]
            wanted = torch.tensor([words.index(a.word(attribute)) for a in said], device=labels.device)
            result[attribute] = (labels == wanted).float()
        return result


def foreground(videos: Tensor) -> Tensor:
    """Soft object mask by chroma, which a grey background does not have.

    Args:
        videos: (B, F, 3, H, W) in [0, 1].

    Returns:
        (B, F, H, W) in [0, 1].
    """
    chroma = videos.amax(dim=2) - videos.amin(dim=2)
    return ((chroma - _GROUND_CHROMA) / (_OBJECT_CHROMA - _GROUND_CHROMA)).clamp(0, 1)


def centroids(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and area of each frame's mask.

    Args:
        mask: (B, F, H, W).

    Returns:
        Rows and columns of the centre in pixels, (B, F) each, and the area in pixels, (B, F).
    """
    height, width = mask.shape[-2:]
    rows = torch.arange(height, device=mask.device, dtype=mask.dtype)
    columns = torch.arange(width, device=mask.device, dtype=mask.dtype)
    area = mask.sum(dim=(-2, -1))
    safe = area.clamp_min(1e-6)
    row = (mask.sum(dim=-1) * rows).sum(dim=-1) / safe
    column = (mask.sum(dim=-2) * columns).sum(dim=-1) / safe
    return row, column, area


def _hue(colour: Tensor) -> Tensor:
    """Hue angle in radians of (..., 3) colours, from the two opponent axes."""
    red, green, blue = colour.unbind(dim=-1)
    return torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)


def _colour_labels(videos: Tensor, mask: Tensor) -> Tensor:
    mean = (videos * mask.unsqueeze(2)).sum(dim=(1, 3, 4)) / mask.sum(dim=(1, 2, 3)).clamp_min(
        1e-6
    ).unsqueeze(-1)
    reference = _hue(torch.tensor(list(COLOURS.values()), device=videos.device, dtype=videos.dtype))
    difference = _hue(mean).unsqueeze(-1) - reference
    return torch.cos(difference).argmax(dim=-1)


def _size_labels(mask: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Best-matching disc at the measured centre, by intersection over union summed over frames."""
    height, width = mask.shape[-2:]
    rows = torch.arange(height, device=mask.device, dtype=mask.dtype)[:, None] - row[..., None, None]
    columns = torch.arange(width, device=mask.device, dtype=mask.dtype)[None, :] - column[..., None, None]
    overlaps = []
    for fraction in SIZES.values():
        template = disc(rows, columns, fraction * width)
        shared = torch.minimum(mask, template).sum(dim=(-2, -1))
        union = torch.maximum(mask, template).sum(dim=(-2, -1))
        overlaps.append((shared / union).sum(dim=-1))
    return torch.stack(overlaps, dim=-1).argmax(dim=-1)


def _motion(row: Tensor, column: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares velocity (rows, columns per frame), (B,) each, over the frames in which the object is visible."""
    weight = seen.to(row.dtype)
    count = weight.sum(dim=-1, keepdim=True).clamp_min(1)
    time = torch.arange(row.shape[-1], device=row.device, dtype=row.dtype).expand_as(row)
    time = (time - (weight * time).sum(dim=-1, keepdim=True) / count) * weight
    spread = (time**2).sum(dim=-1).clamp_min(1e-6)
    return (time * row).sum(dim=-1) / spread, (time * column).sum(dim=-1) / spread


def _motion_labels(row: Tensor, column: Tensor, seen: Tensor, side: int) -> Tensor:
    velocity = torch.stack(_motion(row, column, seen), dim=-1)
    directions = torch.tensor(list(MOTIONS.values()), device=row.device, dtype=row.dtype)
    labels = (velocity @ directions.T).argmax(dim=-1)
    return torch.where(velocity.norm(dim=-1) < _SLOWEST * side, -1, labels)


def measure(videos: Tensor) -> Measurement:
    """Measures size, colour and motion of each video.

    Args:
        videos: (B, F, 3, H, W) in [0, 1].

    Returns:
        The `Measurement` of the B videos.

    Raises:
        ValueError: `videos` has another shape.
    """
    if videos.ndim != 5 or videos.shape[2] != 3:
        raise ValueError(f"videos have shape {tuple(videos.shape)}; expected (B, F, 3, H, W) in [0, 1]")
    mask = foreground(videos)
    row, column, area = centroids(mask)
    side = videos.shape[-1]
    seen = area > _SMALLEST_AREA * videos.shape[-2] * side
    visible = seen.float().mean(dim=-1) >= 0.5
    labels = {
        "size": _size_labels(mask, row, column),
        "colour": _colour_labels(videos, mask),
        "motion": _motion_labels(row, column, seen, side),
    }
    return Measurement({name: torch.where(visible, label, -1) for name, label in labels.items()})
