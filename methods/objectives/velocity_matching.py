"""Flow-matching objectives: AWM weights the error by the advantage, rejection sampling selects samples by reward."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.batches import Noised
from methods.experience import Experience
from methods.losses import Weighting, clipped_loss, matching_log_prob, mean_square
from methods.objectives.base import Context, Loss, Needs, clipping, combined, levels
from methods.objectives.forward import FollowedObjective, ForwardObjective
from methods.selection import best_of_each


class AdvantageWeighted(FollowedObjective):
    """Advantage-weighted matching (AWM, arXiv 2509.25050): the clipped ratio of flow-matching likelihoods.

    Attributes:
        weighting: relative weight of errors at different noise levels.
        power: p of "ghuber".
        clip_range: of the ratio to the policy that drew the rollouts.
        old_weight: factor on the mean |v - v_old|^2 towards a copy of the policy that follows it slowly; 0 for none.
    """

    kind: Literal["advantage_weighted"] = "advantage_weighted"
    weighting: Weighting = "ghuber"
    power: float = Field(default=0.25, gt=0)
    clip_range: float = Field(default=1.0, gt=0)
    old_weight: float = Field(default=1.0, ge=0)
    old_limit: float = Field(default=0.3, ge=0, lt=1)

    @property
    def needs(self) -> Needs:
        """The slow copy, if the policy is pulled towards it."""
        return Needs(copies=frozenset({"old"}) if self.old_weight > 0 else frozenset())

    def batch(self, experience: Experience, advantages: Tensor, at: Context) -> Noised:
        """The noised samples, with the policy's velocity there before the update."""
        pairs = super().batch(experience, advantages, at)
        with torch.no_grad():
            velocity = at.velocity("policy", pairs.x, levels(pairs, at), pairs.condition)
        return replace(pairs, velocity=velocity)

    def loss(self, pairs: Noised, at: Context) -> Loss:
        """One clipped loss for all reward terms, whose weighted advantages add up."""
        assert pairs.velocity is not None  # `batch` set it
        sigma = levels(pairs, at)
        velocity = at.velocity("policy", pairs.x, sigma, pairs.condition)
        new, old = (
            matching_log_prob(v, pairs.target, sigma, self.weighting, self.power)
            for v in (velocity, pairs.velocity)
        )
        parts = {"outcome": clipped_loss(new - old, combined(pairs.advantages, at), self.clip_range)}
        if self.old_weight > 0:
            slow = at.velocity("old", pairs.x, sigma, pairs.condition)
            parts["old"] = self.old_weight * mean_square(velocity - slow)
        return Loss(parts, velocity, clipping(new - old, self.clip_range))

    def evaluations(self, rows: int) -> int:
        """The policy before and after, and the slow copy."""
        return (3 if self.old_weight > 0 else 2) * rows


class RejectionSampling(ForwardObjective):
    """Flow matching on the best of each group only (rejection sampling, or online supervised fine-tuning).

    Attributes:
        keep: number of samples of each group to train on, the best by the weighted sum of the outcome rewards.
    """

    kind: Literal["rejection_sampling"] = "rejection_sampling"
    keep: int = Field(default=1, ge=1)

    def batch(self, experience: Experience, advantages: Tensor, at: Context) -> Noised:
        """The best samples of each group at their noise levels."""
        best = best_of_each(combined(advantages[:, 0], at), experience.group_size, self.keep)
        return super().batch(replace(experience, samples=best), advantages, at)

    def loss(self, pairs: Noised, at: Context) -> Loss:
        """The mean |v - (e - x0)|^2 of each row."""
        velocity = at.velocity("policy", pairs.x, levels(pairs, at), pairs.condition)
        return Loss({"outcome": mean_square(velocity - pairs.target)}, velocity)
