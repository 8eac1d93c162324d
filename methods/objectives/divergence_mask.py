"""Flow-DPPO: steps that have moved too far are masked by their divergence instead of their ratio."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.batches import Transitions
from methods.objectives.base import Context, Loss, Needs
from methods.objectives.clipped_ratio import TransitionObjective


class DivergenceMask(TransitionObjective):
    """-A rho, but 0 if a step has left its trust region and would be pushed further out (arXiv 2606.11025, eq. 18).

    The trust region bounds the KL of the policy's transition to the one that drew the step,
    (mu - mu_old)^2 / (2 std^2), averaged over elements. The ratio of one sample is a noisy measure of how far a policy
    has moved, whereas the KL is known in closed form.

    Attributes:
        limit: the largest KL, in nats averaged over elements.
    """

    kind: Literal["divergence_mask"] = "divergence_mask"
    limit: float = Field(default=1e-5, gt=0)

    @property
    def needs(self) -> Needs:
        """Like other ratios, plus the velocity that drew each step."""
        return super().needs._replace(velocities=True)

    def loss(self, pairs: Transitions, at: Context) -> Loss:
        """One masked loss per term."""
        assert pairs.velocity is not None  # `needs` asked for it
        velocity, log_ratio = self.scored(pairs, at)
        distance = at.sampler.kl_divergence(velocity.detach(), pairs.velocity, pairs.step)
        losses, masked = masked_loss(log_ratio, pairs.advantages, distance, self.limit)
        figures = {
            "ratio_deviation": (log_ratio.detach().exp() - 1).abs().mean().item(),
            "clip_fraction": masked.float().mean().item(),
            "kl_to_rollout": distance.mean().item(),
        }
        return Loss(self.split(losses, at), velocity, figures)


def masked_loss(
    log_ratio: Tensor, advantages: Tensor, distance: Tensor, limit: float
) -> tuple[Tensor, Tensor]:
    """-A rho, and a mask of where it was set to 0: at a KL of `limit` or more, if the gradient would raise it.

    Args:
        log_ratio: (n,) of the policy to the one that drew the rows.
        advantages: (terms, n).
        distance: (n,) the KL between the two.
        limit: the largest KL allowed.

    Returns:
        (terms, n) losses, and (terms, n) whether each was masked.
    """
    further = advantages * log_ratio.detach() > 0
    masked = further & (distance >= limit)
    return torch.where(masked, 0.0, -advantages * log_ratio.exp()), masked
