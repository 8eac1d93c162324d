"""The training rewards, and the reward whose gradient guides a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.metering import Meter, MeteredOutcome, MeteredProcess, metered_decode
from methods.method import Method
from rewards.base import OutcomeReward, ProcessReward
from rewards.gradients import DecodedReward, ZerothOrderReward
from samplers import Reward


@dataclass(frozen=True)
class Rewards:
    """The rewards a run trains with.

    Attributes:
        outcomes: the suite's training rewards by name.
        weights: weight of each in the loss and in the guiding sum. In the sum the rewards are not normalised, just as
            the process reward is not; a loss uses each one's advantage.
        process: the process reward; needed if `method.needs_process_reward`.
        decode: (B, ...) clean latents to (B, F, 3, H, W) videos in [0, 1].
    """

    outcomes: Mapping[str, OutcomeReward]
    weights: Mapping[str, float]
    process: ProcessReward | None
    decode: Callable[[Tensor], Tensor]

    def metered(self, meter: Meter) -> Rewards:
        """The same rewards, with their calls metered."""
        return replace(
            self,
            outcomes={name: MeteredOutcome(name, reward, meter) for name, reward in self.outcomes.items()},
            process=None if self.process is None else MeteredProcess(self.process, meter),
            decode=metered_decode(self.decode, meter),
        )

    def guide(self, method: Method, generators: Sequence[torch.Generator], iteration: int) -> Reward:
        """The reward whose gradient guides a method.

        Args:
            method: decides which reward guides.
            generators: for the directions of an estimated gradient, one per sample, new for every batch.
            iteration: training iteration, from 1, for errors.

        Raises:
            ValueError: the method is guided by a process reward, and there is none.
        """
        source = method.outcome_guidance
        if source is None:
            return self.process_of(method)
        if source.estimator == "autograd":
            return self.differentiable(iteration)
        return ZerothOrderReward(
            self.outcomes, self.weights, self.decode, generators, source.directions, source.radius, iteration
        )

    def process_of(self, method: Method) -> ProcessReward:
        """The process reward a method needs.

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
    ) -> tuple[Reward | None, Reward | None]:
        """The reward that guides a method's rollouts, and the one that scores their states; either may be None.

        Args and errors as in `guide`. If guidance is at x0_hat, states are scored there too; to compare two sources
        of guidance alone, use x0_hat for both.
        """
        guide = self.guide(method, generators, iteration) if method.guided else None
        return guide, None if method.process is None else self.process_of(method)

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B,) weighted sum of the outcome rewards' values, (B,) each."""
        return torch.stack([weight * values[name] for name, weight in self.weights.items()]).sum(dim=0)

    def differentiable(self, iteration: int) -> DecodedReward:
        """The weighted sum of the outcome rewards as a differentiable function of clean latents."""
        return DecodedReward(self.outcomes, self.weights, self.decode, iteration)
