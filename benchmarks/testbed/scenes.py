"""Procedural captioned videos: a coloured ball moves over a grey background."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from rewards.shapes.attributes import ATTRIBUTES, COLOURS, MOTIONS, SIZES, Attributes, disc

NUM_FRAMES = 9
SIDE = 32


def all_prompts() -> list[str]:
    """The 48 captions of size x colour x motion, in a fixed order."""
    products = itertools.product(SIZES, COLOURS, MOTIONS)
    return [Attributes(size, colour, motion).caption for size, colour, motion in products]


def prompt_split() -> tuple[list[str], list[str]]:
    """The fixed split: 36 training prompts and 12 held-out combinations never trained on in RL.

    A Latin-square rule holds out, for each size and colour, one motion, such that every word is held out
    equally often (each size 4 times, each colour and each motion 3 times): no word is new, only the combination.
    """
    train: list[str] = []
    held_out: list[str] = []
    products = itertools.product(enumerate(SIZES), enumerate(COLOURS), enumerate(MOTIONS))
    for (s, size), (c, colour), (m, motion) in products:
        chosen = held_out if m == (c + s) % len(MOTIONS) else train
        chosen.append(Attributes(size, colour, motion).caption)
    return train, held_out


@dataclass(frozen=True)
class Scenes:
    """B rendered scenes.

    Attributes:
        videos: (B, F, 3, H, W) in [0, 1].
        labels: attribute -> (B,) position of the true word in `ATTRIBUTES[attribute]`.
    """

    videos: Tensor
    labels: dict[str, Tensor]

    def captions(
        self, wrong: dict[str, float] | None = None, generator: torch.Generator | None = None
    ) -> list[str]:
        """Captions of the scenes; each attribute is replaced by a uniformly drawn word with probability `wrong`."""
        said = {}
        for attribute, labels in self.labels.items():
            chance = (wrong or {}).get(attribute, 0.0)
            drawn = torch.randint(len(ATTRIBUTES[attribute]), labels.shape, generator=generator)
            replace = torch.rand(labels.shape, generator=generator) < chance
            said[attribute] = [ATTRIBUTES[attribute][i] for i in torch.where(replace, drawn, labels).tolist()]
        return [
            Attributes(size, colour, motion).caption
            for size, colour, motion in zip(said["size"], said["colour"], said["motion"], strict=True)
        ]


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _paths(motion: Tensor, radius: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres (rows, columns) in pixels, (B, F) each, that keep the whole object inside the frame."""
    count = len(motion)
    direction = torch.tensor(list(MOTIONS.values()))[motion]
    margin = radius + 0.5
    room = (SIDE - 1) - 2 * margin
    travel = room * _uniform(count, 0.65, 1.0, generator)
    along_start = margin + (room - travel) * torch.rand(count, generator=generator)
    across = margin + room * _uniform(count, 0.1, 0.9, generator)
    progress = torch.linspace(0, 1, NUM_FRAMES)[None, :]
    sign = direction.sum(dim=-1, keepdim=True)
    forward = along_start[:, None] + travel[:, None] * progress
    along = torch.where(sign > 0, forward, (SIDE - 1) - forward)
    across = across[:, None].expand_as(along)
    vertical = direction[:, :1].abs() > 0.5
    return torch.where(vertical, along, across), torch.where(vertical, across, along)


def render(labels: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Renders scenes with the given attributes; position, speed, exact radius, shade and ground are drawn.

    Args:
        labels: attribute -> (B,) positions in `ATTRIBUTES[attribute]`.
        generator: source of every other choice.

    Returns:
        (B, F, 3, H, W) videos in [0, 1].
    """
    count = len(labels["colour"])
    radius = (
        SIDE * torch.tensor(list(SIZES.values()))[labels["size"]] * _uniform(count, 0.94, 1.06, generator)
    )
    row, column = _paths(labels["motion"], radius, generator)
    grid = torch.arange(SIDE, dtype=torch.float32)
    rows = grid[:, None] - row[..., None, None]
    columns = grid[None, :] - column[..., None, None]
    coverage = disc(rows, columns, radius[:, None, None, None]).unsqueeze(2)
    paint = torch.tensor(list(COLOURS.values()))[labels["colour"]]
    paint = (paint * _uniform(count, 0.85, 1.0, generator)[:, None])[:, None, :, None, None]
    ground = _uniform(count, 0.05, 0.25, generator)[:, None, None, None, None]
    return coverage * paint + (1 - coverage) * ground


def sample_labels(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniformly drawn attributes for `count` scenes."""
    return {
        name: torch.randint(len(words), (count,), generator=generator) for name, words in ATTRIBUTES.items()
    }


def sample_scenes(count: int, generator: torch.Generator) -> Scenes:
    """`count` scenes with uniformly drawn attributes."""
    labels = sample_labels(count, generator)
    return Scenes(render(labels, generator), labels)
