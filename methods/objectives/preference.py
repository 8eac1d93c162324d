"""Online DPO: prefers the best of a group to the worst, on the forward process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from methods.batches import Noised, noised
from methods.experience import Experience
from methods.losses import mean_square
from methods.objectives.base import Context, Loss, Needs, combined, follow, levels
from methods.objectives.forward import ForwardObjective
from methods.selection import best_of_each


@dataclass(frozen=True)
class Preferred(Noised):
    """The better and the worse sample of each pair, with the same noise.

    Attributes:
        worse: (n, ...) the worse samples.
    """

    worse: Tensor | None = None


class Preference(ForwardObjective):
    """Diffusion-DPO on the best and worst of each group (arXiv 2311.12908, eq. 14), drawn in each iteration.

    With l the mean square of v - (e - x0) and l_ref the reference's, at one noise level and one noise for both,
    the loss is -log sigmoid(-(b / 2) ((l - l_ref) of the better - (l - l_ref) of the worse)).

    Attributes:
        beta: b.
        refresh: iterations between replacements of the reference by the current policy; 0 keeps the base model.
    """

    kind: Literal["preference"] = "preference"
    beta: float = Field(default=100.0, gt=0)
    refresh: int = Field(default=0, ge=0)

    @property
    def needs(self) -> Needs:
        """The reference: the base model, or a copy that then draws the rollouts as well."""
        return Needs(copies=frozenset({"old"}), rollouts="old") if self.refresh else Needs(base=True)

    def batch(self, experience: Experience, advantages: Tensor, at: Context) -> Preferred:
        """The best of each group at its noise levels, and the worst at the same."""
        total = combined(advantages[:, 0], at).cpu()
        best, worst = (best_of_each(sign * total, experience.group_size, 1).view(-1, 1) for sign in (1, -1))
        decided = (total[best] > total[worst]).flatten()
        best, worst = best[decided].flatten(), worst[decided].flatten()
        better = super().batch(replace(experience, samples=best), advantages, at)
        partner = worst.repeat_interleave(experience.steps.shape[1])
        return Preferred(**vars(better), worse=experience.trajectory.final[partner].float())

    def loss(self, pairs: Preferred, at: Context) -> Loss:
        """One loss per pair of samples and noise level."""
        assert pairs.worse is not None  # `batch` set it
        sigma = levels(pairs, at)
        x = torch.cat([pairs.x, noised(pairs.worse, pairs.noise, sigma)])
        target = torch.cat([pairs.target, pairs.noise - pairs.worse])
        given = torch.cat([sigma, sigma]), pairs.condition.select([*range(len(pairs))] * 2)
        velocity = at.velocity("policy", x, *given)
        reference = at.velocity("old" if self.refresh else "base", x, *given)
        gained = mean_square(velocity - target) - mean_square(reference - target)
        better, worse = gained.chunk(2)
        margin = -self.beta / 2 * (better - worse)
        figures = {"preferred": (margin > 0).float().mean().item()}
        return Loss({"outcome": -logsigmoid(margin)}, velocity.chunk(2)[0], figures)

    def evaluations(self, rows: int) -> int:
        """Policy and reference, for both samples."""
        return 4 * rows

    def after_update(self, copies: Mapping[str, list[Tensor]], trained: list[Tensor], iteration: int) -> None:
        """Replaces the reference by the policy every `refresh` iterations."""
        if self.refresh and (iteration + 1) % self.refresh == 0:
            follow(copies["old"], trained, kept=0.0)
