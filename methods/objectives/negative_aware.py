"""DiffusionNFT: learning from good and bad samples on the forward process, without densities."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from methods.batches import Noised
from methods.losses import negative_aware_losses
from methods.objectives.base import Context, Loss, Needs, combined, levels
from methods.objectives.forward import FollowedObjective


class NegativeAware(FollowedObjective):
    """The negative-aware forward-process loss (DiffusionNFT, arXiv 2509.16117, eq. 5).

    Rollouts are drawn from an old policy that follows the trained one slowly.

    Attributes:
        beta: how far the implicit positive and negative policies lie from the old one, in steps of v - v_old.
        advantage_clip: the advantage at which a sample counts as certainly good or bad.
    """

    kind: Literal["negative_aware"] = "negative_aware"
    beta: float = Field(default=0.1, gt=0)
    advantage_clip: float = Field(default=5.0, gt=0)

    @property
    def needs(self) -> Needs:
        """The old policy, which draws the rollouts."""
        return Needs(copies=frozenset({"old"}), rollouts="old")

    def loss(self, pairs: Noised, at: Context) -> Loss:
        """One loss for all reward terms, whose weighted advantages add up."""
        sigma = levels(pairs, at)
        old = at.velocity("old", pairs.x, sigma, pairs.condition)
        velocity = at.velocity("policy", pairs.x, sigma, pairs.condition)
        losses = negative_aware_losses(
            pairs.clean,
            pairs.x,
            sigma,
            velocity,
            old,
            combined(pairs.advantages, at),
            self.beta,
            self.advantage_clip,
        )
        return Loss({"outcome": losses}, velocity, {"moved": (velocity - old).square().mean().item()})

    def evaluations(self, rows: int) -> int:
        """The policy and the old one."""
        return 2 * rows
