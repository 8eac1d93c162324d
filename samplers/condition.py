"""What a network is conditioned on: encoded prompts, and the size of the videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ConfigDict, PositiveInt
from torch import Tensor

#: Encoded prompts: name -> tensor (B, ...). The names are those of the family; every family has `embeds`.
Text = Mapping[str, Tensor]


@dataclass(frozen=True)
class Geometry:
    """The videos to generate: frames, height and width in pixels. Checked where it is a field of settings."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    num_frames: PositiveInt = 9
    height: PositiveInt = 32
    width: PositiveInt = 32


@dataclass(frozen=True)
class Condition:
    """Encoded prompts of a batch.

    Attributes:
        prompts: the B texts.
        text: name -> (B, ...), what the family's network reads of them.
        negative: the same of the negative prompt; None without classifier-free guidance.
    """

    prompts: tuple[str, ...]
    text: Text
    negative: Text | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def embeds(self) -> Tensor:
        """(B, L, D) prompt embeddings."""
        return self.text["embeds"]

    @property
    def branches(self) -> int:
        """Evaluations of the network for one velocity: 2 with classifier-free guidance."""
        return 1 if self.negative is None else 2

    def select(self, positions: Sequence[int]) -> Condition:
        """The condition of the samples at `positions`, repeats allowed."""
        rows = torch.as_tensor(positions, device=self.embeds.device)
        negative = None if self.negative is None else selected(self.negative, rows)
        return Condition(tuple(self.prompts[i] for i in rows.tolist()), selected(self.text, rows), negative)


def selected(text: Text, rows: Tensor) -> dict[str, Tensor]:
    """The rows of every tensor."""
    return {name: tensor[rows] for name, tensor in text.items()}
