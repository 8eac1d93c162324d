"""The rewards that train, and whose gradient guides a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from methods.metering import Meter, MeteredOutcome, MeteredProcess, metered_decode
from methods.method import Method
from rewards.base import OutcomeReward, ProcessReward
from rewards.gradients import DecodedReward, ZerothOrderReward
from samplers import Reward, reward_value


@dataclass(frozen=True)
class ScoreAndGuide:
    """What a rollout takes as its one reward, where one reward scores the states and another one guides.

    Attributes:
        score: gives the values.
        guide: gives the gradients.
    """

    score: ProcessReward
    guide: DecodedReward | ZerothOrderReward

    def __call__(self, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Values (B,) of latents (B, ...) by `score`."""
        return self.score(x, sigma, condition)

    def value_and_gradient(self, x: Tensor, sigma: Tensor, condition: Any) -> tuple[Tensor, Tensor]:
        """Values (B,) by `score`, and the gradient, shaped like x, by `guide`."""
        return reward_value(self.score, x, sigma, condition), self.guide.gradient(x, sigma, condition)


@dataclass(frozen=True)
class Rewards:
    """The rewards that a run trains with.

    Attributes:
        outcomes: the suite's training rewards by name.
        weights: of each in the loss, and in the sum that guides. There they are not normalised, as the process reward
            is not, where a loss takes each one's advantage.
        process: the process reward; needed where `method.needs_process_reward`.
        decode: (B, ...) clean latents to (B, F, 3, H, W) videos in [0, 1].
    """

    outcomes: Mapping[str, OutcomeReward]
    weights: Mapping[str, float]
    process: ProcessReward | None
    decode: Callable[[Tensor], Tensor]

    def metered(self, meter: Meter) -> Rewards:
        """The same, their calls sections of a meter."""
        return replace(
            self,
            outcomes={name: MeteredOutcome(name, reward, meter) for name, reward in self.outcomes.items()},
            process=None if self.process is None else MeteredProcess(self.process, meter),
            decode=metered_decode(self.decode, meter),
        )

    def guide(self, method: Method, generators: Sequence[torch.Generator], iteration: int) -> Reward:
        """The reward whose gradient guides a method.

        Args:
            method: its settings decide.
            generators: of the directions of an estimated gradient, one a sample, new for every batch.
            iteration: training iteration, from 1, for errors.

        Raises:
            ValueError: the method is guided by a process reward, and there is none.
        """
        source = method.outcome_guidance
        if source is None:
            return self.process_of(method)
        if source.estimator == "autograd":
            return DecodedReward(self.outcomes, self.weights, self.decode, iteration)
        return ZerothOrderReward(
            self.outcomes, self.weights, self.decode, generators, source.directions, source.radius, iteration
        )

    def process_of(self, method: Method) -> ProcessReward:
        """The process reward that a method needs.

        Raises:
            ValueError: there is none.
        """
        if self.process is None:
            raise ValueError(
                f"{method.name} needs a process reward and none was given; without one, leave out process and guide "
                "by outcome_guidance"
            )
        return self.process

    def of_rollouts(
        self, method: Method, generators: Sequence[torch.Generator], iteration: int
    ) -> Reward | None:
        """What a rollout of a method takes as `reward`; None where it neither is guided nor has a process term.

        Where the outcome rewards guide and the method has a process term, the result is guided by the former and
        recorded as `process_rewards` from the latter. Both are then read where `sampler.guidance.at` says, at x0_hat:
        to compare the two sources of guidance alone, set that for both.

        Args and errors as of `guide`.
        """
        if not method.guided:
            return None if method.process is None else self.process_of(method)
        guide = self.guide(method, generators, iteration)
        if method.process is None or method.outcome_guidance is None:
            return guide
        assert isinstance(guide, DecodedReward | ZerothOrderReward)  # the outcome rewards guide
        return ScoreAndGuide(self.process_of(method), guide)
