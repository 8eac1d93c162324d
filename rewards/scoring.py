"""One interface for every outcome reward: a scorer gives one or several named scores of clips."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rewards.base import OutcomeReward

#: What is known about a prompt besides its text, such as the words that the video should show.
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Clips:
    """B finished videos and what a scorer may know about them.

    Attributes:
        videos: (B, F, 3, H, W) in [0, 1].
        prompts: the B prompts they were generated from.
        fps: frames per second at which they are meant to be seen.
        facts: what is known about each prompt; empty if nothing is known about any.
    """

    videos: Tensor
    prompts: Sequence[str]
    fps: float = 16.0
    facts: Sequence[Facts] = field(default=())

    def __len__(self) -> int:
        return len(self.prompts)

    def fact(self, row: int, name: str) -> Any:
        """One fact about the prompt of one clip; None if it is not known."""
        return self.facts[row].get(name) if self.facts else None

    def parts(self, size: int | None) -> Iterator[Clips]:
        """The clips in batches of at most `size`; None for all at once."""
        step = len(self) if size is None else size
        for first in range(0, len(self), step):
            rows = slice(first, first + step)
            yield replace(self, videos=self.videos[rows], prompts=self.prompts[rows], facts=self.facts[rows])

    def to(self, device: torch.device | str) -> Clips:
        """The same clips, their videos on a device."""
        return replace(self, videos=self.videos.to(device))

    def frames(self, count: int) -> Tensor:
        """(B, count, 3, H, W): frames evenly spaced from the first to the last, each at most once in a longer video."""
        positions = torch.linspace(0, self.videos.shape[1] - 1, count).round().long()
        return self.videos[:, positions.to(self.videos.device)]


class Scorer(ABC):
    """Scores clips; higher is better.

    Whatever a scorer raises stops the run with the prompt and the cause; it never answers with a number that it
    does not mean.

    Attributes:
        names: its scores. One score is called as the suite's entry is; several are called entry_score.
        differentiable: whether the scores have a gradient in the videos, and so can guide and train directly.
            None if it is not known.
        comparing: whether a score depends on the other clips of the batch, so that no batch may be split.
        provenance: where the scores come from, for the records: model, revision, frames, normalisation.
    """

    names: tuple[str, ...] = ("score",)
    differentiable: bool | None = False
    comparing: bool = False

    @abstractmethod
    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """Name -> (B,) scores of B clips, for all `names`."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the scores come from."""
        return {}

    def refusal(self, clips: Clips) -> str | None:
        """Why these clips cannot be scored; None if they can.

        Asked before the run with videos on the meta device, which have a shape and no values.
        """
        del clips
        return None

    def to(self, device: torch.device) -> None:
        """Moves the scorer's networks, if it has any."""
        move_networks(self, device)


class Adapted(Scorer):
    """An outcome reward of videos and prompts as a scorer."""

    differentiable = None

    def __init__(self, reward: OutcomeReward) -> None:
        self.reward = reward
        self.comparing = bool(getattr(reward, "comparing", False))

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """The reward's (B,) values as "score"."""
        return {"score": self.reward(clips.videos, clips.prompts)}

    def to(self, device: torch.device) -> None:
        """Moves the reward's networks, if it has any."""
        move_networks(self.reward, device)


def move_networks(owner: object, device: torch.device) -> None:
    """Moves the networks among an object's attributes; an object without attributes, such as a function, has none."""
    for value in getattr(owner, "__dict__", {}).values():
        if isinstance(value, nn.Module):
            value.to(device)


def as_scorer(made: object) -> Scorer:
    """A scorer, or an outcome reward as one.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(made, Scorer):
        return made
    if not callable(made):
        raise TypeError(
            f"it makes a {type(made).__name__}, which is neither a rewards.scoring.Scorer nor a function of videos "
            "and prompts"
        )
    return Adapted(made)
