"""The interfaces of rewards, and how failures are reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from samplers.condition import Text


class RewardError(RuntimeError):
    """A reward failed, or returned a value that cannot be trained on.

    It stops the run, so that a failed reward never becomes a number to train on.
    """


class OutcomeReward(Protocol):
    """A score of finished videos."""

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores B videos.

        Args:
            videos: (B, F, 3, H, W) in [0, 1].
            prompts: the B prompts they were generated from.

        Returns:
            (B,) float32; higher is better.
        """


class Encoded(Protocol):
    """The part of an encoded prompt batch that a process reward reads."""

    @property
    def text(self) -> Text:
        """Name -> (B, ...), encoded prompts as the family's network reads them."""


class ProcessReward(Protocol):
    """A differentiable score of noised latents, r(x_t, t, c)."""

    def __call__(self, x: Tensor, sigma: Tensor, condition: Encoded) -> Tensor:
        """Scores B noised latents (B, C, F', H', W') at noise levels (B,); returns (B,)."""


def scored(name: str, reward: OutcomeReward, videos: Tensor, prompts: Sequence[str], step: int) -> Tensor:
    """Calls an outcome reward and checks its answer.

    Args:
        name: the reward's name, for the error.
        reward: the reward.
        videos: (B, F, 3, H, W) in [0, 1].
        prompts: B prompts.
        step: training iteration, for the error.

    Returns:
        (B,) float32 on the videos' device.

    Raises:
        RewardError: the reward raised, or its answer has the wrong shape or is not finite; names reward, prompt
            and iteration.
    """
    asked = f"at iteration {step} on {len(prompts)} videos (first prompt {prompts[0]!r})"
    try:
        values = reward(videos, prompts)
    except Exception as error:
        reason = " ".join(str(error).split())  # one line, whatever the reward raised
        raise RewardError(f"reward {name!r} failed {asked}: {type(error).__name__}: {reason}") from error
    if not isinstance(values, Tensor) or values.shape != (len(prompts),):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise RewardError(f"reward {name!r} returned {shape} {asked}; expected ({len(prompts)},)")
    # As the loss will see them: a large float64 is infinite here, and a graph ends here.
    values = values.detach().to(device=videos.device, dtype=torch.float32)
    broken = ~torch.isfinite(values)
    if broken.any():
        first = int(broken.nonzero()[0])
        raise RewardError(
            f"reward {name!r} returned {values[first].item()} for prompt {prompts[first]!r} at iteration {step} "
            f"({int(broken.sum())} of {len(prompts)} values are not finite)"
        )
    return values
