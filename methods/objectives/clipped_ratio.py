"""The clipped ratio over the rollouts' own steps (PPO and GRPO), as in Flow-GRPO and DanceGRPO."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.batches import Transitions
from methods.experience import Experience
from methods.losses import clipped_loss
from methods.objectives.base import Context, Loss, Needs, StepObjective, clipping, levels


class TransitionObjective(StepObjective):
    """An objective that scores the rollouts' own steps again under the current policy."""

    @property
    def needs(self) -> Needs:
        """Trained steps with a density, and the states at both ends of each."""
        return Needs(density=True, states="stochastic")

    def batch(self, experience: Experience, advantages: Tensor, at: Context) -> Transitions:  # noqa: ARG002
        """Each trained step of each trained sample, sample by sample."""
        return transitions(experience, advantages)

    def scored(self, pairs: Transitions, at: Context) -> tuple[Tensor, Tensor]:
        """The policy's velocity (n, ...) and the log-ratio (n,) to the policy that drew the rows."""
        velocity = at.velocity("policy", pairs.x, levels(pairs, at), pairs.condition)
        moved = pairs.gradient if at.sampler.settings.score_mean == "guided" else None
        transition = at.sampler.transition(pairs.x, velocity, pairs.step, moved)
        return velocity, transition.log_prob(pairs.x_next) - pairs.log_prob

    def split(self, losses: Tensor, at: Context) -> dict[str, Tensor]:
        """(terms, n) losses as weighted parts (n,): one for all outcome rewards, one for the process reward."""
        weighted = at.weights.unsqueeze(1) * losses
        process = torch.tensor([name == "process" for name in at.names], device=losses.device)
        rows = {"outcome": ~process & (at.weights > 0), "process": process}
        return {name: weighted[mask].sum(dim=0) for name, mask in rows.items() if mask.any()}


class ClippedRatio(TransitionObjective):
    """max(-A rho, -A clip(rho, 1 - e, 1 + e)) for every reward term (PPO, arXiv 1707.06347, eq. 7).

    Attributes:
        clip_range: e, for log-probabilities averaged over elements.
        step_weight: "equal", or in proportion to the "noise" of a step, its std, with a mean of 1 over the eligible
            steps (TempFlow-GRPO, arXiv 2508.04324, whose code uses 2.25 and 1.73 for the inverse of that mean).
    """

    kind: Literal["clipped_ratio"] = "clipped_ratio"
    clip_range: float = Field(default=1e-4, gt=0)
    step_weight: Literal["equal", "noise"] = "equal"

    def loss(self, pairs: Transitions, at: Context) -> Loss:
        """One clipped loss per term."""
        velocity, log_ratio = self.scored(pairs, at)
        losses = clipped_loss(log_ratio, pairs.advantages, self.clip_range)
        if self.step_weight == "noise":
            std = at.sampler.coefficients.std
            losses = losses * (std / std[self.eligible(at.sampler)].mean())[pairs.step].to(losses)
        return Loss(self.split(losses, at), velocity, clipping(log_ratio, self.clip_range))


def transitions(experience: Experience, advantages: Tensor) -> Transitions:
    """The trained (sample, step) pairs of some rollouts, sample by sample.

    Args:
        experience: the rollouts, with the states at both ends of every trained step.
        advantages: (terms, N, B).
    """
    sample, step = experience.trained()
    trajectory = experience.trajectory
    place = {state: row for row, state in enumerate(trajectory.kept)}
    before = torch.tensor([place[index] for index in step.tolist()])
    after = torch.tensor([place[index + 1] for index in step.tolist()])
    return Transitions(
        sample=sample,
        step=step,
        x=trajectory.states[before, sample],
        condition=experience.condition.select(sample.tolist()),
        advantages=advantages[:, step, sample],
        x_next=trajectory.states[after, sample],
        log_prob=trajectory.log_probs[step, sample],
        gradient=_gradients(experience)[step, sample] if trajectory.reward_gradients else None,
        velocity=None if experience.velocities is None else experience.velocities[step, sample],
    )


def _gradients(experience: Experience) -> Tensor:
    """(N, B, ...) the gradient that guided each step, 0 at unguided steps."""
    trajectory = experience.trajectory
    dense = torch.zeros((trajectory.num_steps, *trajectory.final.shape), device=trajectory.final.device)
    for step, gradient in trajectory.reward_gradients.items():
        dense[step] = gradient
    return dense
