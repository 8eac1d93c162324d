"""Distillation targets: velocities that the policy is pulled towards (docs/theory.md, "A target that stands still")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from methods.batches import Pairs, Transitions
from methods.method import Method
from methods.networks import Networks
from methods.objectives.base import levels
from samplers import (
    Guidance,
    NonFiniteError,
    Reward,
    reward_at_clean,
    reward_value_and_gradient,
    shape_gradient,
)


class Target(NamedTuple):
    """Targets of n trained pairs.

    Attributes:
        velocity: (n, ...) the anchor's, including the guidance.
        base: (n, ...) the base model's velocity, if that is the anchor.
        counts: (n,) 1 where the divergence from the target counts, 0 where it does not.
    """

    velocity: Tensor
    base: Tensor | None
    counts: Tensor


@dataclass(frozen=True)
class Distiller:
    """Makes a method's targets.

    Attributes:
        method: the method's settings.
        at: the policy and its base model, at this iteration.
    """

    method: Method
    at: Networks

    def targets(self, pairs: Pairs, generators: Sequence[torch.Generator]) -> Target | None:
        """The targets of some rows; None if nothing is distilled.

        The base model is evaluated once per row. The reward's gradient is computed only where it guides the target
        and the rollouts have not computed it already.

        Args:
            pairs: n rows.
            generators: n, for the directions of an estimated gradient; none if outcome rewards do not guide.

        Raises:
            NonFiniteError: the reward's gradient is not finite; names the step.
        """
        iteration, sampler = self.at.iteration, self.at.sampler
        if self.method.distillation_weight(iteration) == 0:
            return None
        guidance = self.method.target_guidance(iteration)
        guided = sampler.guided_by(guidance)
        sigma = levels(pairs, self.at)
        everywhere = torch.ones(len(pairs), device=pairs.x.device)
        if guidance is None:
            base = self._anchor(pairs, sigma)
            return Target(base, base, everywhere)
        if self.method.reuses_gradient:
            assert isinstance(pairs, Transitions)  # only the rollouts' own states were guided
            anchor = self._anchor(pairs, sigma)
            # There are none if a moving window of noise misses all guided steps.
            gradient = torch.zeros_like(anchor) if pairs.gradient is None else pairs.gradient
        else:
            reward = self.at.rewards.guide(self.method, generators, iteration + 1)
            anchor, gradient = self._anchor_and_gradient(pairs, sigma, guidance, reward)
        _check_finite(gradient, pairs.step, sigma)
        velocity = guided.distillation_target(anchor, gradient, pairs.step)
        if self.method.needs_base:
            return Target(velocity, anchor, everywhere)
        return Target(velocity, None, torch.as_tensor(guided.guided(pairs.step)).to(everywhere))

    def _anchor(self, pairs: Pairs, sigma: Tensor) -> Tensor:
        """(n, ...) the anchor's velocity."""
        if self.method.needs_base:
            return self.at.velocity("base", pairs.x, sigma, pairs.condition)
        assert isinstance(pairs, Transitions)
        assert pairs.velocity is not None  # collected for an anchor at the policy
        return pairs.velocity

    def _anchor_and_gradient(
        self, pairs: Pairs, sigma: Tensor, guidance: Guidance, reward: Reward
    ) -> tuple[Tensor, Tensor]:
        """The anchor's velocity, and the shaped gradient of the reward at the rows' states or clean estimates."""
        if guidance.at == "state":
            anchor = self._anchor(pairs, sigma)
            _, gradient = reward_value_and_gradient(reward, pairs.x, sigma, pairs.condition)
        else:
            network = partial(self.at.velocity, "base") if self.method.needs_base else self.at.policy.velocity
            anchor, _, gradient = reward_at_clean(network, pairs.x, sigma, pairs.condition, reward)
            if not self.method.needs_base:
                anchor = self._anchor(pairs, sigma)  # of the policy that drew the rows
        return anchor, shape_gradient(gradient, guidance)


def _check_finite(gradient: Tensor, steps: Tensor, sigma: Tensor) -> None:
    broken = (~torch.isfinite(gradient)).flatten(1).any(dim=1)
    if broken.any():
        first = int(broken.nonzero()[0])
        raise NonFiniteError(
            f"the reward's gradient for the distillation's target is not finite at step {int(steps[first])} "
            f"(sigma {float(sigma[first]):.4g}), in {int(broken.sum())} of {len(steps)} pairs"
        )
