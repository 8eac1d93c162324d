"""Direct gradients of differentiable rewards, through the decoder and the last steps: ReFL and DRaFT."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.batches import Pairs
from methods.experience import Experience
from methods.objectives.base import Context, Loss, Needs, Objective, levels
from samplers import Sampler, clean_estimate


class DirectReward(Objective):
    """The negative weighted sum of the outcome rewards, differentiated through decoder and network.

    Attributes:
        through: "steps" differentiates the last `last` steps of the sampler (DRaFT-K, arXiv 2309.17400); "estimate"
            the clean estimate x - t v at one of the last `last` steps, drawn at random (ReFL, arXiv 2304.05977).
        last: K.
        scale: factor on the loss.
    """

    kind: Literal["direct_reward"] = "direct_reward"
    through: Literal["steps", "estimate"] = "steps"
    last: int = Field(default=1, ge=1)
    scale: float = Field(default=1.0, gt=0)

    @property
    def needs(self) -> Needs:
        """The states before the last steps, and differentiable rewards."""
        return Needs(states=self.last + 1, differentiable=True)

    def refusal(self, sampler: Sampler) -> str | None:
        """If the last steps draw noise, or the sampler has fewer steps."""
        if self.last > sampler.num_steps:
            return (
                f"objective.last is {self.last}, more than sampler.num_steps, {sampler.num_steps}; lower it"
            )
        if self.through == "steps" and any(sampler.stochastic_steps[-self.last :]):
            return (
                f"objective.through is 'steps', and the last {self.last} steps draw noise; set sampler.noise.kind to "
                "'zero', or end sampler.window before them"
            )
        return None

    def steps(self, sampler: Sampler, choice: torch.Generator) -> Tensor:
        """(1,) the step down to which the gradient is propagated."""
        first = sampler.num_steps - self.last
        if self.through == "steps":
            return torch.tensor([first])
        return torch.randint(first, sampler.num_steps, (1,), generator=choice)

    def batch(self, experience: Experience, advantages: Tensor, at: Context) -> Pairs:  # noqa: ARG002
        """Each trained sample, at the state where differentiation starts."""
        sample, step = experience.trained()
        trajectory = experience.trajectory
        rows = step - trajectory.kept[0]  # the last states are kept, one after the other
        condition = experience.condition.select(sample.tolist())
        return Pairs(
            sample, step, trajectory.states[rows, sample].float(), condition, advantages[:, step, sample]
        )

    def loss(self, pairs: Pairs, at: Context) -> Loss:
        """The reward of the sample that the policy makes from each state."""
        sigma = levels(pairs, at)
        velocity = at.velocity("policy", pairs.x, sigma, pairs.condition)
        if self.through == "estimate":
            clean = clean_estimate(pairs.x, velocity, sigma)
        else:
            clean = self._finished(pairs, velocity, at)
        reward = at.reward(clean, pairs.condition)
        return Loss({"outcome": -self.scale * reward}, velocity, {"trained_reward": reward.mean().item()})

    def evaluations(self, rows: int) -> int:
        """One per differentiated step."""
        return rows * (self.last if self.through == "steps" else 1)

    def _finished(self, pairs: Pairs, velocity: Tensor, at: Context) -> Tensor:
        """(n, ...) the finished samples, differentiable through the last steps."""
        steps = at.sampler.num_steps
        x = at.sampler.transition(pairs.x, velocity, steps - self.last).mean
        for step in range(steps - self.last + 1, steps):
            sigma = torch.full((len(x),), float(at.sampler.sigmas[step]), device=x.device)
            velocity = at.velocity("policy", x, sigma, pairs.condition)
            x = at.sampler.transition(x, velocity, step).mean
        return x
