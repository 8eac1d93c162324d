"""Gradients of rewards that offer none: zeroth-order estimates through a decoder.

Autograd of a differentiable process reward needs nothing from here: samplers take the reward itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rewards.base import OutcomeReward, scored


class Prompted(Protocol):
    """The part of an encoded prompt batch that an outcome reward reads."""

    @property
    def prompts(self) -> Sequence[str]:
        """The B texts."""


@dataclass
class ZerothOrderReward:
    """A black-box pixel reward with a gradient in the latent, by simultaneous perturbation (SPSA, Spall 1992).

    For n random sign vectors d, the estimate is the mean of (f(x + c d) - f(x - c d)) / (2c) d, with f(x) the
    reward of the decoded latent. Central differences cancel every even term of f: for a linear reward the
    expectation is exact, for a smooth one its bias falls with c^2. Its variance grows with the number of latent
    elements and falls with n; the cost is 2n + 1 decodings and reward calls a sample.

    The same directions serve every sample of a batch, so a sample's gradient does not depend on its neighbours.

    Use it with guidance at `x0_hat`: it knows clean latents only.

    Attributes:
        name: the reward's name, for errors.
        reward: scores videos.
        decode: (B, ...) latents to (B, F, 3, H, W) videos in [0, 1].
        generator: source of the directions, on the CPU.
        directions: n.
        radius: c, in latent units.
    """

    name: str
    reward: OutcomeReward
    decode: Callable[[Tensor], Tensor]
    generator: torch.Generator
    directions: int = 8
    radius: float = 0.1

    def __post_init__(self) -> None:
        if self.directions < 1:
            raise ValueError(f"directions is {self.directions}; give at least 1")
        if not self.radius > 0:
            raise ValueError(f"radius is {self.radius}; give a number > 0")

    @torch.no_grad()
    def value_and_gradient(self, x: Tensor, sigma: Tensor, condition: Prompted) -> tuple[Tensor, Tensor]:
        """Values (B,) and estimated gradient, shaped like x.

        Raises:
            ValueError: sigma is not 0: a noised latent decodes to nothing that this reward could judge.
            RewardError: the reward failed.
        """
        if bool((sigma != 0).any()):
            raise ValueError(
                f"reward {self.name!r} knows clean latents only, and was asked at sigma {sigma.max().item():g}: "
                "set guidance.at to 'x0_hat'"
            )
        values = self._score(x, condition)
        gradient = torch.zeros_like(x, dtype=torch.float32)
        for _ in range(self.directions):
            bits = torch.randint(2, x.shape[1:], generator=self.generator, device=self.generator.device)
            direction = (2.0 * bits - 1.0).to(x.device)
            step = (self.radius * direction).to(x.dtype)
            slope = (self._score(x + step, condition) - self._score(x - step, condition)) / (2 * self.radius)
            gradient += slope.view(-1, *[1] * (x.ndim - 1)) * direction
        return values, gradient / self.directions

    def _score(self, x: Tensor, condition: Prompted) -> Tensor:
        return scored(self.name, self.reward, self.decode(x), condition.prompts, step=0)
