"""One step of a sampler as a Gaussian: the same object draws the next state and scores a stored one."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from samplers.checks import check_like
from samplers.randomness import Generators, draw_noise


@dataclass(frozen=True)
class Transition:
    """Distribution of the next state, N(mean, std^2) for each element.

    Attributes:
        unguided_mean: the policy's own mean, shape (B, ...), at least float32; differentiable in the
            velocity.
        guided_mean: the mean shifted by guidance, or None without a gradient.
        std: shape (B, 1, ...), of the next state itself (sqrt(D) included); 0 at deterministic steps.
        stochastic: whether each sample's std is above 0, shape (B,), on the CPU.
        score_mean: which of the means `log_prob` uses.
        reduction: whether `log_prob` averages or sums over the elements of a sample.
        density: whether `log_prob` is the Gaussian's, or minus the squared distance to the mean.
    """

    unguided_mean: torch.Tensor
    guided_mean: torch.Tensor | None
    std: torch.Tensor
    stochastic: torch.Tensor
    score_mean: Literal["unguided", "guided"] = "unguided"
    reduction: Literal["mean", "sum"] = "mean"
    density: Literal["gaussian", "squared_error"] = "gaussian"

    @property
    def mean(self) -> torch.Tensor:
        """Mean from which the next state is drawn: guided if a gradient was given. Shape (B, ...)."""
        return self.unguided_mean if self.guided_mean is None else self.guided_mean

    def sample(self, generator: Generators | None = None) -> torch.Tensor:
        """Draw the next state, shape (B, ...), in the precision of the step.

        A deterministic transition returns its mean and draws nothing.

        Args:
            generator: a torch.Generator, or one per sample.

        Raises:
            ValueError: without a generator, if any sample's std is above 0.
        """
        if not bool(self.stochastic.any()):
            return self.mean
        if generator is None:
            raise ValueError(
                "this transition is stochastic and no generator was given: pass a torch.Generator, or one "
                "per sample"
            )
        noise = draw_noise(self.mean.shape, generator, self.mean.device, self.mean.dtype)
        return torch.addcmul(self.mean, noise, self.std)

    def log_prob(self, x_next: torch.Tensor) -> torch.Tensor:
        """Log-density of a next state, as set by ``density``, reduced over the elements of each sample: (B,).

        Score what was stored: round a state to its storage dtype first, then pass the rounded state here.

        Args:
            x_next: shape (B, ...), any floating dtype.

        Raises:
            ValueError: if any sample's std is 0, where there is no density.
        """
        check_like("x_next", x_next, self.unguided_mean)
        if not bool(self.stochastic.all()):
            samples = torch.nonzero(~self.stochastic).flatten().tolist()
            raise ValueError(
                f"std is 0 for samples {samples}, so there is no density: ask only at stochastic steps "
                "(sampler.stochastic(index))"
            )
        scored = self.mean if self.score_mean == "guided" else self.unguided_mean
        dims = tuple(range(1, x_next.ndim))
        elements = x_next[0].numel()
        # The norm reads the residual once; squaring the residual first would write another tensor.
        square = torch.linalg.vector_norm(x_next - scored, dim=dims).square() / elements
        std = self.std.flatten()
        log_density = -square
        if self.density == "gaussian":
            log_density = log_density / (2 * std.square()) - std.log() - 0.5 * math.log(2 * math.pi)
        return log_density if self.reduction == "mean" else log_density * elements
