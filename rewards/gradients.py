"""Gradients of pixel rewards with respect to the latent, through a decoder: exact (autograd) or zeroth-order estimates.

A differentiable process reward needs nothing from this module: samplers take the reward itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rewards.base import OutcomeReward, RewardError, scored


class Prompted(Protocol):
    """The part of an encoded prompt batch that an outcome reward reads."""

    @property
    def prompts(self) -> Sequence[str]:
        """The B texts."""


@dataclass
class DecodedReward:
    """A weighted sum of differentiable pixel rewards, with its exact gradient in the latent.

    Use it with guidance at `x0_hat`: it knows clean latents only.

    Attributes:
        rewards: name -> reward of videos, differentiable in them.
        weights: name -> weight in the sum, for the same names.
        decode: (B, ...) latents to (B, F, 3, H, W) videos in [0, 1], differentiable.
        iteration: training iteration, for errors.
    """

    rewards: Mapping[str, OutcomeReward]
    weights: Mapping[str, float]
    decode: Callable[[Tensor], Tensor]
    iteration: int = 0

    def gradient(self, x: Tensor, sigma: Tensor, condition: Prompted) -> Tensor:
        """Gradient at clean latents, shaped like x; raises like `value_and_gradient`."""
        return self.value_and_gradient(x, sigma, condition)[1]

    def values(self, x: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Reward -> differentiable values (B,) of clean latents (B, ...).

        Raises:
            ValueError: a reward has no gradient in the latent.
            RewardError: a reward failed.
        """
        videos = self.decode(_wide(x))
        return {name: self._answer(name, videos, prompts)[0] for name in self.rewards}

    def value_and_gradient(self, x: Tensor, sigma: Tensor, condition: Prompted) -> tuple[Tensor, Tensor]:
        """Values (B,) of clean latents (B, ...) and their gradient, shaped like x.

        Raises:
            ValueError: sigma (B,) is not 0, or a reward has no gradient in the latent.
            RewardError: a reward failed, or its gradient is not finite.
        """
        _check_clean(self.rewards, sigma)
        total, values = torch.zeros_like(_wide(x)), torch.zeros(len(x), device=x.device)
        with torch.enable_grad():
            leaf = _wide(x).detach().requires_grad_(True)
            videos = self.decode(leaf)
            for position, name in enumerate(self.rewards):
                value, checked = self._answer(name, videos, condition.prompts)
                values += self.weights[name] * checked
                last = position == len(self.rewards) - 1
                (slope,) = torch.autograd.grad(value.sum(), leaf, retain_graph=not last)
                if not torch.isfinite(slope).all():
                    raise RewardError(
                        f"the gradient of reward {name!r} is not finite at iteration {self.iteration}"
                    )
                total += self.weights[name] * slope
        return values, total

    def _answer(self, name: str, videos: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """A reward's answer (B,), both as returned (differentiable) and checked (detached)."""
        answers: list[Tensor] = []

        def asked(videos: Tensor, prompts: Sequence[str]) -> Tensor:
            answers.append(self.rewards[name](videos, prompts))
            return answers[-1]

        checked = scored(name, asked, videos, prompts, self.iteration)
        if not answers[-1].requires_grad:
            raise ValueError(
                f"reward {name!r} has no gradient in the video: train with rewards that have one, or estimate it "
                "(outcome_guidance.estimator 'spsa')"
            )
        return answers[-1], checked


@dataclass
class ZerothOrderReward:
    """A weighted sum of black-box pixel rewards, with a gradient in the latent by SPSA (Spall 1992).

    For n random sign vectors d, the estimate is the mean of (f(x + c d) - f(x - c d)) / (2c) d, with f(x) the
    weighted sum of the rewards of the decoded latent. Central differences cancel every even term of f: for a
    linear reward the expectation is exact, for a smooth one its bias falls with c^2. The estimate is noisy: its
    squared norm is that of the gradient times 1 + (N - 1) / n for N latent elements, so a guidance strength that
    suits an exact gradient is too strong by that factor. Each sample costs 2n decodings and reward calls, and one
    more if its value is needed.

    Every sample has its own directions, so its gradient does not depend on its neighbours.

    Use it with guidance at `x0_hat`: it knows clean latents only.

    Attributes:
        rewards: name -> reward of videos.
        weights: name -> weight in the sum; the same names.
        decode: (B, ...) latents to (B, F, 3, H, W) videos in [0, 1].
        generators: sources of the directions, one per sample. Every gradient advances them, so create new
            generators, and a new object, for every rollout.
        directions: n.
        radius: c, in latent units.
        iteration: training iteration, for errors.
    """

    rewards: Mapping[str, OutcomeReward]
    weights: Mapping[str, float]
    decode: Callable[[Tensor], Tensor]
    generators: Sequence[torch.Generator]
    directions: int = 8
    radius: float = 0.1
    iteration: int = 0

    def __post_init__(self) -> None:
        if self.directions < 1:
            raise ValueError(f"directions is {self.directions}; give at least 1")
        if not self.radius > 0:
            raise ValueError(f"radius is {self.radius}; give a number > 0")
        if not self.rewards or self.rewards.keys() != self.weights.keys():
            raise ValueError(
                f"rewards are {sorted(self.rewards)} and weights {sorted(self.weights)}; give at least one reward, "
                "and each its weight"
            )

    def __call__(self, x: Tensor, sigma: Tensor, condition: Prompted) -> Tensor:
        """Values (B,) of clean latents (B, ...), without a gradient.

        Raises:
            ValueError: sigma (B,) is not 0: these rewards cannot judge a decoded noisy latent.
            RewardError: a reward failed.
        """
        _check_clean(self.rewards, sigma)
        with torch.no_grad():
            return self._value(_wide(x), condition)

    def gradient(self, x: Tensor, sigma: Tensor, condition: Prompted) -> Tensor:
        """Estimated gradient at clean latents, shaped like x, at least float32; raises like a call."""
        _check_clean(self.rewards, sigma)
        if len(self.generators) != len(x):
            raise ValueError(
                f"{len(self.generators)} generators for a batch of {len(x)}: give one for each sample"
            )
        with torch.no_grad():
            return self._estimate(_wide(x), condition)

    def value_and_gradient(self, x: Tensor, sigma: Tensor, condition: Prompted) -> tuple[Tensor, Tensor]:
        """Values (B,) and estimated gradient, shaped like x; raises like a call."""
        return self(x, sigma, condition), self.gradient(x, sigma, condition)

    def _estimate(self, x: Tensor, condition: Prompted) -> Tensor:
        total = torch.zeros_like(x)
        for _ in range(self.directions):
            direction = self._signs(x)
            step = self.radius * direction
            rise = self._value(x + step, condition) - self._value(x - step, condition)
            slope = rise / (2 * self.radius)
            total += slope.view(-1, *[1] * (x.ndim - 1)) * direction
        return total / self.directions

    def _signs(self, x: Tensor) -> Tensor:
        """One direction for each sample, every element -1 or 1."""
        bits = [torch.randint(2, x.shape[1:], generator=g, device=g.device).to(x) for g in self.generators]
        return 2 * torch.stack(bits) - 1

    def _value(self, x: Tensor, condition: Prompted) -> Tensor:
        videos = self.decode(x)
        values = [
            self.weights[name] * scored(name, reward, videos, condition.prompts, self.iteration)
            for name, reward in self.rewards.items()
        ]
        return torch.stack(values).sum(dim=0)


def _check_clean(names: Iterable[str], sigma: Tensor) -> None:
    if bool((sigma != 0).any()):
        raise ValueError(
            f"rewards {sorted(names)} know clean latents only, and were asked at sigma "
            f"{sigma.max().item():g}: set guidance.at to 'x0_hat'"
        )


def _wide(x: Tensor) -> Tensor:
    """In at least float32, so that a small radius is not lost in a latent's rounding."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
