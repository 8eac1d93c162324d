"""The vocabulary of the shapes world: the words of a caption, and what each looks like.

The testbed renders from these definitions and the held-out rewards measure against them, so captions, renderings
and measurements stay consistent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Colour name -> (red, green, blue) in [0, 1]. Hues 0, 120, 240 and 60 degrees lightly desaturated.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.14, 0.14),
    "green": (0.14, 0.85, 0.14),
    "blue": (0.18, 0.28, 0.96),
    "yellow": (0.93, 0.88, 0.12),
}
#: Size name -> radius of the ball as a fraction of the frame's side. Neighbours differ by a factor of 1.45.
SIZES: dict[str, float] = {"small": 0.100, "medium": 0.145, "large": 0.210}
#: Motion name -> unit displacement (rows down, columns right).
MOTIONS: dict[str, tuple[float, float]] = {
    "left": (0.0, -1.0),
    "right": (0.0, 1.0),
    "up": (-1.0, 0.0),
    "down": (1.0, 0.0),
}
#: Attribute -> its words, in the order in which a caption names them.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "colour": tuple(COLOURS),
    "motion": tuple(MOTIONS),
}


@dataclass(frozen=True)
class Attributes:
    """What one caption says.

    Raises:
        ValueError: a word is not in the vocabulary.
    """

    size: str
    colour: str
    motion: str

    def __post_init__(self) -> None:
        for attribute, words in ATTRIBUTES.items():
            word = self.word(attribute)
            if word not in words:
                raise ValueError(f"{attribute} is {word!r}; the shapes world knows {', '.join(words)}")

    def word(self, attribute: str) -> str:
        """The word for `attribute` ("size", "colour" or "motion")."""
        return {"size": self.size, "colour": self.colour, "motion": self.motion}[attribute]

    @property
    def caption(self) -> str:
        """The caption, e.g. "a small red ball moving left"."""
        return f"a {self.size} {self.colour} ball moving {self.motion}"


def parse_caption(caption: str) -> Attributes:
    """Reads "a small red ball moving left" back into its attributes.

    Raises:
        ValueError: the caption is not of that form, or uses a word outside the vocabulary.
    """
    words = caption.strip().lower().split()
    if len(words) != 6 or words[0] != "a" or words[3:5] != ["ball", "moving"]:
        raise ValueError(
            f"prompt {caption!r} is not of the form 'a <size> <colour> ball moving <direction>'; "
            "the shapes rewards can only judge such prompts"
        )
    return Attributes(size=words[1], colour=words[2], motion=words[5])


def disc(rows: Tensor, columns: Tensor, radius: Tensor | float) -> Tensor:
    """Anti-aliased coverage of a disc centred at the origin.

    Args:
        rows: pixel offsets from the centre, downwards, broadcastable.
        columns: the same, to the right.
        radius: in pixels, broadcastable.

    Returns:
        Coverage in [0, 1], broadcast shape of the inputs; the edge is one pixel wide.
    """
    return (0.5 + radius - torch.sqrt(rows**2 + columns**2)).clamp(0, 1)
