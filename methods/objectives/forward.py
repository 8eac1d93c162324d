"""Common parts of objectives on the forward process: finished samples, noised again to the sampler's levels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from methods.batches import Noised, noised
from methods.experience import Experience
from methods.objectives.base import Context, StepObjective, follow


class ForwardObjective(StepObjective):
    """An objective that noises the finished samples again. Any sampler can draw them, including the ODE.

    Each sample gets new noise at each of its trained noise levels.
    """

    train_last_step: bool = True

    def batch(self, experience: Experience, advantages: Tensor, at: Context) -> Noised:
        """Each trained sample at each of its noise levels."""
        return noised_samples(experience, advantages, at)


class FollowedObjective(ForwardObjective):
    """A forward objective with a copy of the policy, "old", that follows it slowly.

    Attributes:
        old_growth: the copy keeps min(old_growth * iteration, old_limit) of itself after each update.
        old_limit: the limit.
    """

    old_growth: float = Field(default=0.001, ge=0)
    old_limit: float = Field(default=0.5, ge=0, lt=1)

    def after_update(self, copies: Mapping[str, list[Tensor]], trained: list[Tensor], iteration: int) -> None:
        """Moves the copy, if there is one, towards the policy."""
        if "old" in copies:
            follow(copies["old"], trained, min(self.old_growth * iteration, self.old_limit))


def noised_samples(experience: Experience, advantages: Tensor, at: Context) -> Noised:
    """The trained samples, each noised again to each of its trained levels.

    Args:
        experience: the rollouts.
        advantages: (terms, N, B).
        at: gives the noise levels.
    """
    sample, step = experience.trained()
    clean = experience.trajectory.final[sample].float()
    draws = experience.generators("forward noise", sample, step)
    noise = torch.stack([torch.randn(clean.shape[1:], generator=draw) for draw in draws]).to(clean.device)
    sigma = at.sampler.sigmas[step].to(clean.device, torch.float32)
    return Noised(
        sample=sample,
        step=step,
        x=noised(clean, noise, sigma),
        condition=experience.condition.select(sample.tolist()),
        advantages=advantages[:, step, sample],
        clean=clean,
        noise=noise,
    )
