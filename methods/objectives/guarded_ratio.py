"""GRPO-Guard: a centred ratio, equally wide at every step, and equally weighted steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from methods.batches import Transitions
from methods.losses import clipped_loss
from methods.objectives.base import Context, Loss, Needs, clipping
from methods.objectives.clipped_ratio import TransitionObjective
from samplers import Sampler


class GuardedRatio(TransitionObjective):
    """The clipped ratio with GRPO-Guard's two corrections (arXiv 2510.22319).

    The log-ratio of a Gaussian step is e . dmu / s - |dmu|^2 / (2 s^2), averaged over elements, for a step of noise e
    and std s whose mean moved by dmu. Its second term is negative at every step, so good samples reach the upper clip
    limit late and bad ones the lower limit early. `ratio` adds this term back and multiplies by s; the remaining
    e . dmu is centred.

    Its gradient in the velocity is then proportional to the step's length D, so each step's loss is divided by D. Of
    the public implementations, one does this and one does not; `balanced` selects between them. With the division,
    all steps have the same weight at a ratio of 1 (docs/methods.md).

    Attributes:
        clip_range: of the corrected ratio, which is narrower than the plain one by a factor of about s.
        balanced: whether each step's loss is divided by its length.
    """

    kind: Literal["guarded_ratio"] = "guarded_ratio"
    clip_range: float = Field(default=2e-6, gt=0)
    balanced: bool = True

    @property
    def needs(self) -> Needs:
        """Like other ratios, plus the velocity that drew each step."""
        return super().needs._replace(velocities=True)

    def refusal(self, sampler: Sampler) -> str | None:
        """The correction assumes a Gaussian density."""
        if sampler.settings.density != "gaussian":
            return (
                f"sampler.density is {sampler.settings.density!r}; objective 'guarded_ratio' needs 'gaussian'"
            )
        return super().refusal(sampler)

    def loss(self, pairs: Transitions, at: Context) -> Loss:
        """One clipped loss per term."""
        assert pairs.velocity is not None  # `needs` asked for it
        velocity, log_ratio = self.scored(pairs, at)
        moved = at.sampler.kl_divergence(velocity, pairs.velocity, pairs.step)
        coefficients = at.sampler.coefficients.std[pairs.step]
        centred = (log_ratio + moved) * coefficients.to(log_ratio)
        losses = clipped_loss(centred, pairs.advantages, self.clip_range)
        if self.balanced:
            lengths = at.sampler.sigmas[:-1] - at.sampler.sigmas[1:]
            losses = losses / lengths[pairs.step].to(losses)
        return Loss(self.split(losses, at), velocity, clipping(centred, self.clip_range))
