"""Which reward's gradient guides a method's rollouts, and which reward scores their states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.method import Method
from rewards.base import OutcomeReward, ProcessReward
from rewards.gradients import ZerothOrderReward
from samplers import Reward, reward_value


@dataclass(frozen=True)
class ScoreAndGuide:
    """What a rollout takes as its one reward, where one reward scores the states and another one guides.

    Attributes:
        score: gives the values.
        guide: gives the gradients.
    """

    score: ProcessReward
    guide: ZerothOrderReward

    def __call__(self, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Values (B,) of latents (B, ...) by `score`."""
        return self.score(x, sigma, condition)

    def value_and_gradient(self, x: Tensor, sigma: Tensor, condition: Any) -> tuple[Tensor, Tensor]:
        """Values (B,) by `score`, and the gradient, shaped like x, by `guide`."""
        return reward_value(self.score, x, sigma, condition), self.guide.gradient(x, sigma, condition)


def guiding_reward(
    method: Method,
    process_reward: ProcessReward | None,
    rewards: Mapping[str, OutcomeReward],
    weights: Mapping[str, float],
    decode: Callable[[Tensor], Tensor],
    generators: Sequence[torch.Generator],
    iteration: int,
) -> Reward | None:
    """What a rollout of this method takes as `reward`.

    Where the outcome rewards guide and the method has a process term, the result is guided by the former and
    recorded as `process_rewards` from the latter. Both are then read where `sampler.guidance.at` says, at x0_hat: to
    compare the two sources of guidance alone, set that for both.

    Args:
        method: its settings decide.
        process_reward: needed if `method.needs_process_reward`.
        rewards: the outcome rewards that train. Their sum guides unnormalised, as the process reward does, where a
            loss takes each one's advantage.
        weights: of each in that sum.
        decode: (B, ...) clean latents to (B, F, 3, H, W) videos in [0, 1], as `policy.decode`.
        generators: of the directions of an estimated gradient, one a sample, new for every rollout.
        iteration: training iteration, from 1, for errors.

    Returns:
        None for a method that neither is guided nor has a process term.

    Raises:
        ValueError: the method needs a process reward, and there is none.
    """
    if method.needs_process_reward and process_reward is None:
        raise ValueError(
            f"{method.name} needs a process reward and none was given; without one, leave out process and guide "
            "by outcome_guidance"
        )
    if not method.guided or method.outcome_guidance is None:
        return process_reward if method.needs_process_reward else None
    source = method.outcome_guidance
    guide = ZerothOrderReward(
        rewards, weights, decode, generators, source.directions, source.radius, iteration
    )
    if method.process is None:
        return guide
    assert process_reward is not None  # a process term needs it
    return ScoreAndGuide(process_reward, guide)
