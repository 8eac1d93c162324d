"""Reward guidance: its settings, the reward's value and gradient, and how the gradient is shaped.

A reward is a callable ``reward(x, sigma, condition) -> (B,)``, differentiated with autograd, or an object
with ``value_and_gradient(x, sigma, condition) -> (values (B,), gradient like x)``, for instance a
zeroth-order estimate of a black-box reward. An object may be both; it is then called when only the value is
needed. A sample's reward may depend only on that sample, so the gradient of the sum is the batch of gradients.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, model_validator

from samplers.checks import check_like
from samplers.precision import wide
from samplers.windows import check_inside, check_range

# Added to the norm of a normalised gradient, as published: a zero gradient stays zero.
NORM_EPS = 1e-8


class Guidance(BaseModel):
    """How a reward's gradient moves the mean of a step. Give exactly one of ``strength`` and ``scale``.

    Attributes:
        strength: relative, lam = 1 / beta. The shift is (std^2 / 2) * lam * gradient, the coefficient of the guided
            SDE: half of what the step's own noise would justify. It has no effect at steps without noise.
        scale: absolute. The shift is scale * D * gradient with D = sigma - sigma_next, so it also acts on the ODE.
        start: first guided step.
        stop: end of the guided steps, exclusive; None for no end.
        interval: distance between guided steps: start, start + interval, ... below ``stop``.
        normalisation: ``none``; ``sample`` divides each sample's gradient by its own L2 norm; ``batch`` divides by
            the norm of the whole batch, as published, which makes a sample depend on its neighbours.
        clip: upper limit on the root-mean-square of a sample's gradient over its elements, after normalisation.
        at: ``state`` takes the gradient at (x_t, t). ``x0_hat`` evaluates the reward at the predicted clean sample
            x - t v and time 0, and propagates its gradient back to x_t through the network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strength: float | None = None
    scale: float | None = None
    start: int = 0
    stop: int | None = None
    interval: int = 1
    normalisation: Literal["none", "sample", "batch"] = "none"
    clip: float | None = None
    at: Literal["state", "x0_hat"] = "state"

    @model_validator(mode="after")
    def _check(self) -> "Guidance":
        if (self.strength is None) == (self.scale is None):
            raise ValueError(
                f"guidance.strength = {self.strength} and guidance.scale = {self.scale}: give exactly one, "
                "strength (relative, 1 / beta) or scale (absolute, also for ODE steps)"
            )
        for name, value in (("strength", self.strength), ("scale", self.scale)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"guidance.{name} = {value}: give a finite number >= 0, or negate the reward"
                )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"guidance.clip = {self.clip}: give a number > 0, or omit it for no clipping")
        check_range("guidance", self.start, self.stop, self.interval)
        return self

    def check(self, num_steps: int) -> None:
        """Raise ValueError if the guided steps do not lie within ``num_steps`` steps."""
        check_inside("guidance", self.start, self.stop, num_steps)

    def steps(self, num_steps: int) -> tuple[bool, ...]:
        """The steps inside the guidance window: num_steps booleans."""
        self.check(num_steps)
        members = frozenset(range(num_steps)[self.start : self.stop : self.interval])
        return tuple(index in members for index in range(num_steps))

    def shift(self, std: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """How far a unit gradient moves the mean of a step of this std and size D = sigma - sigma_next."""
        if self.strength is not None:
            return self.strength * std.square() / 2
        assert self.scale is not None
        return self.scale * step


@runtime_checkable
class GradientReward(Protocol):
    """A reward that computes its own gradient."""

    def value_and_gradient(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (B,) and the gradient with respect to x, shaped like x."""
        ...


Reward = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor] | GradientReward


def reward_value(reward: Reward, x: torch.Tensor, sigma: torch.Tensor, condition: Any) -> torch.Tensor:
    """The reward of each sample, without its gradient: shape (B,)."""
    with torch.no_grad():
        if callable(reward):
            return _checked_values(reward(x, sigma, condition), x)
        return _checked_values(reward.value_and_gradient(x, sigma, condition)[0], x)


def reward_value_and_gradient(
    reward: Reward,
    x: torch.Tensor,
    sigma: torch.Tensor,
    condition: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The reward of each sample and its gradient with respect to x, from one evaluation.

    Gradients of parameters are neither computed nor accumulated.

    Returns:
        values (B,) and gradient, shaped like x, both detached.
    """
    if isinstance(reward, GradientReward):
        values, gradient = reward.value_and_gradient(x.detach(), sigma, condition)
        check_like("the reward's gradient", gradient, x)
        return _checked_values(values, x).detach(), gradient.detach()
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        values = _checked_values(reward(leaf, sigma, condition), x)
        if not values.requires_grad:
            raise ValueError(
                "the reward does not depend on x differentiably: remove torch.no_grad() or .detach() inside "
                "it, or give an object with value_and_gradient"
            )
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient


def reward_gradient(
    reward: Reward, x: torch.Tensor, sigma: torch.Tensor, condition: Any
) -> tuple[None, torch.Tensor]:
    """Like `reward_value_and_gradient` without the values; a reward with its own ``gradient`` need not compute them."""
    alone = getattr(reward, "gradient", None)
    if alone is None:
        return None, reward_value_and_gradient(reward, x, sigma, condition)[1]
    gradient = alone(x.detach(), sigma, condition)
    check_like("the reward's gradient", gradient, x)
    return None, gradient.detach()


def shape_gradient(gradient: torch.Tensor, guidance: Guidance) -> torch.Tensor:
    """Normalise and then clip a raw reward gradient as set in ``guidance``: shape (B, ...), at least float32."""
    gradient = wide(gradient)
    dims = tuple(range(1, gradient.ndim))
    if guidance.normalisation == "sample":
        gradient = gradient / (torch.linalg.vector_norm(gradient, dim=dims, keepdim=True) + NORM_EPS)
    elif guidance.normalisation == "batch":
        gradient = gradient / (torch.linalg.vector_norm(gradient) + NORM_EPS)
    if guidance.clip is not None:
        size = math.sqrt(gradient[0].numel())
        rms = torch.linalg.vector_norm(gradient, dim=dims, keepdim=True) / size
        # Only samples above the limit are rescaled, so that a limit that does not bind changes no bit.
        gradient = torch.where(rms > guidance.clip, gradient * (guidance.clip / rms), gradient)
    return gradient


def _checked_values(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if values.shape != (x.shape[0],):
        raise ValueError(
            f"the reward returned shape {tuple(values.shape)} for a batch of {x.shape[0]}: return one value "
            f"per sample, shape ({x.shape[0]},)"
        )
    return values
