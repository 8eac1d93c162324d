"""Synthetic clips that every scorer should tell from one another: still, moving, noise, text."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

KINDS = ("still", "moving", "noise", "text")


def clip(kind: str, seed: int, frames: int, height: int, width: int) -> Tensor:
    """One clip, (F, 3, H, W) in [0, 1].

    Args:
        kind: one of `KINDS`.
        seed: of its colours, places and noise.
        frames: how many.
        height: of a frame, in pixels.
        width: of a frame.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "noise":
        return torch.rand(frames, 3, height, width, generator=generator)
    if kind == "text":
        return _text(f"SIGN {seed}", height, width).expand(frames, -1, -1, -1).clone()
    start, colour = torch.rand(2, generator=generator), torch.rand(3, generator=generator)
    reach = 0.5 if kind == "moving" else 0.0
    path = [0.25 * width * (1 + start[0]) + reach * width * i / max(1, frames - 1) for i in range(frames)]
    rows = torch.arange(height)[:, None] - height * (0.3 + 0.4 * start[1])
    ball = torch.stack(
        [torch.sigmoid(height / 8 - (rows**2 + (torch.arange(width) - x) ** 2).sqrt()) for x in path]
    )
    ground = torch.linspace(0.2, 0.5, width).expand(height, width)
    mask = ball[:, None]
    return (1 - mask) * ground + mask * colour.view(1, 3, 1, 1)


def _text(words: str, height: int, width: int) -> Tensor:
    picture = Image.new("RGB", (width, height), "white")
    font = ImageFont.load_default(size=max(8, width // 6))
    ImageDraw.Draw(picture).text((width // 20, height // 3), words, fill="black", font=font)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
