"""Metering: the parts of a method name their sections, and whoever runs it may count them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor

from rewards.base import Encoded, OutcomeReward, ProcessReward
from samplers.guidance import reward_value, reward_value_and_gradient


class Meter(Protocol):
    """Counts the compute of a section, minus that of sections opened within it."""

    def __call__(self, component: str, key: Hashable, **counts: float) -> AbstractContextManager[None]:
        """Opens a section.

        Args:
            component: what the compute belongs to ("rollout", "decoder", ...).
            key: equal keys of one component cost the same, so that each is measured only once.
            counts: what else to count: nfe, videos, reward_calls, updates.
        """


def unmetered(component: str, key: Hashable, **counts: float) -> AbstractContextManager[None]:  # noqa: ARG001
    """Counts nothing."""
    return nullcontext()


class MeteredOutcome:
    """An outcome reward whose calls are metered."""

    def __init__(self, name: str, reward: OutcomeReward, meter: Meter) -> None:
        self._name, self._reward, self._meter = name, reward, meter

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of videos (B, F, 3, H, W)."""
        key = (self._name, tuple(videos.shape))
        with self._meter("outcome_rewards", key, reward_calls=len(prompts)):
            return self._reward(videos, prompts)


def metered_decode(decode: Callable[[Tensor], Tensor], meter: Meter) -> Callable[[Tensor], Tensor]:
    """A decoder whose calls are metered."""

    def decoded(latents: Tensor) -> Tensor:
        with meter("decoder", tuple(latents.shape)):
            return decode(latents)

    return decoded


class MeteredProcess:
    """A process reward whose calls, including the input gradient, are metered."""

    def __init__(self, reward: ProcessReward, meter: Meter) -> None:
        self._reward, self._meter = reward, meter

    def __call__(self, x: Tensor, sigma: Tensor, condition: Encoded) -> Tensor:
        """Values (B,) of latents (B, ...)."""
        with self._meter("process_reward", ("value", tuple(x.shape)), reward_calls=len(x)):
            return reward_value(self._reward, x, sigma, condition)

    def value_and_gradient(self, x: Tensor, sigma: Tensor, condition: Any) -> tuple[Tensor, Tensor]:
        """Values (B,) and their gradient at x (B, ...)."""
        with self._meter("process_reward", ("gradient", tuple(x.shape)), reward_calls=len(x)):
            return reward_value_and_gradient(self._reward, x, sigma, condition)
