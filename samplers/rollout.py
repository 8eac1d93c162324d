"""The rollout: the only sampling loop. ``Sampler.rollout`` is its public interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from samplers.checks import check_finite, check_like
from samplers.guidance import Reward, reward_gradient, reward_value, reward_value_and_gradient, shape_gradient
from samplers.policy import VelocityFunction
from samplers.precision import wide
from samplers.randomness import Generators
from samplers.settings import SamplerSettings
from samplers.trajectory import Trajectory, TrajectoryBuilder
from samplers.transition import Transition


class Steps(Protocol):
    """What a rollout needs of a sampler; see `samplers.Sampler` for each."""

    settings: SamplerSettings
    sigmas: torch.Tensor
    num_steps: int
    stochastic_steps: tuple[bool, ...]
    guided_steps: tuple[bool, ...]

    def transition(
        self, x: torch.Tensor, velocity: torch.Tensor, index: int, reward_gradient: torch.Tensor | None
    ) -> Transition:
        """The distribution of the state after step ``index``."""


@dataclass(frozen=True)
class Reading:
    """The policy's and the reward's outputs at one state."""

    velocity: torch.Tensor
    values: torch.Tensor | None
    gradient: torch.Tensor | None


@dataclass(frozen=True)
class Rollout:
    """The parts of a rollout that stay the same at every step.

    Attributes:
        sampler: the sampler.
        velocity_of: the policy's velocity.
        condition: passed to policy and rewards unchanged.
        guide: the reward whose gradient moves the guided steps, or None.
        score: the reward whose values are recorded, or None. It may be the same.
    """

    sampler: Steps
    velocity_of: VelocityFunction
    condition: Any
    guide: Reward | None
    score: Reward | None

    def run(
        self,
        x: torch.Tensor,
        generator: Generators | None,
        kept: tuple[int, ...],
        store: torch.device | str | None = None,
    ) -> Trajectory:
        """Step from the initial state x, shape (B, ...), to the last sigma, keeping states on the device `store`."""
        num_steps = self.sampler.num_steps
        builder = TrajectoryBuilder(kept, store)
        builder.state(0, x)
        for index in range(num_steps):
            seen = self._evaluate(x, index)
            transition = self.sampler.transition(x, seen.velocity, index, seen.gradient)
            # Round to the storage dtype first and score what is stored, so that re-scoring it gives ratio 1.
            x = transition.sample(generator).to(x.dtype)
            builder.step(index, self._score(transition, x, seen, index), seen.gradient)
            builder.state(index + 1, x)
            if seen.values is not None:
                builder.reward(seen.values)
        if self.score is not None:
            last = reward_value(self.score, x, self._sigma(num_steps, x), self.condition)
            self._check("the reward", last, num_steps)
            builder.reward(last)
        return builder.finish(self.sampler.sigmas, self.sampler.stochastic_steps)

    def _evaluate(self, x: torch.Tensor, index: int) -> Reading:
        """Velocity, the recorded values, and the shaped gradient if the step is guided."""
        guidance = self.sampler.settings.guidance
        clean = guidance is not None and guidance.at == "x0_hat"
        sigma = self._sigma(index, x)
        values = gradient = None
        read: Callable[..., tuple[torch.Tensor | None, torch.Tensor]] = (
            reward_value_and_gradient if self.score is self.guide else reward_gradient
        )
        if guidance is None or not self.sampler.guided_steps[index] or self.guide is None:
            velocity = self._velocity(x, sigma)
        elif clean:
            velocity, values, gradient = reward_at_clean(
                self.velocity_of, x, sigma, self.condition, self.guide, read
            )
        else:
            velocity = self._velocity(x, sigma)
            values, gradient = read(self.guide, x, sigma, self.condition)
        scored = values if self.score is self.guide else None
        if self.score is not None and scored is None:
            where, when = (clean_estimate(x, velocity, sigma), sigma * 0) if clean else (x, sigma)
            scored = reward_value(self.score, where, when, self.condition)
        for seen in (values, scored):
            if seen is not None:
                self._check("the reward", seen, index)
        if gradient is not None and guidance is not None:
            gradient = shape_gradient(gradient, guidance)
        return Reading(velocity, scored, gradient)

    def _velocity(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        velocity = self.velocity_of(x, sigma, self.condition)
        check_like("the policy's velocity", velocity, x)
        return velocity

    def _score(self, transition: Transition, x_next: torch.Tensor, seen: Reading, index: int) -> torch.Tensor:
        """Log-probability of the stored state, NaN at a deterministic step; checks that everything is finite."""
        if self.sampler.stochastic_steps[index]:
            log_prob = transition.log_prob(x_next)
            suspect = log_prob  # not finite if the state is not: no further read of the state is needed
        else:
            log_prob = transition.mean.new_full((x_next.shape[0],), torch.nan)
            suspect = x_next.sum(dtype=transition.mean.dtype)
        if not bool(torch.isfinite(suspect).all()):
            self._check("the velocity", seen.velocity, index)
            if seen.gradient is not None:
                self._check("the reward's gradient", seen.gradient, index)
            self._check("the next state", x_next, index)
            if self.sampler.stochastic_steps[index]:
                self._check("the log-probability", log_prob, index)
        return log_prob

    def _check(self, name: str, tensor: torch.Tensor, index: int) -> None:
        check_finite(name, tensor, index, float(self.sampler.sigmas[index]))

    def _sigma(self, index: int, x: torch.Tensor) -> torch.Tensor:
        sigma = float(self.sampler.sigmas[index])
        return torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)


def clean_estimate(x: torch.Tensor, velocity: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The predicted clean sample x0_hat = x - t v, shape (B, ...), float32 at least.

    Args:
        x: states (B, ...).
        velocity: (B, ...).
        sigma: t of each sample, (B,).
    """
    return torch.addcmul(wide(x), velocity, -wide(sigma).reshape(-1, *[1] * (x.ndim - 1)))


def reward_at_clean(
    velocity_of: VelocityFunction,
    x: torch.Tensor,
    sigma: torch.Tensor,
    condition: Any,
    reward: Reward,
    read: Callable[..., tuple[Any, torch.Tensor]] = reward_value_and_gradient,
) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """The reward at x0_hat and its exact gradient at x, the Jacobian of the network included.

    Args:
        velocity_of: the network.
        x: states (B, ...).
        sigma: t of each sample, (B,).
        condition: passed to network and reward unchanged.
        reward: evaluated at x0_hat and time 0.
        read: gives the reward's values (or None) and its gradient; ``reward_gradient`` leaves out the values.

    Returns:
        velocity (B, ...), values (B,) and gradient (B, ...), all detached.

    Raises:
        ValueError: the velocity has no gradient with respect to x.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        velocity = velocity_of(leaf, sigma, condition)
        check_like("the policy's velocity", velocity, x)
        if not velocity.requires_grad:
            # Without this the gradient would silently lack the network's part.
            raise ValueError(
                "guidance at x0_hat needs the gradient of the velocity, which has none: remove "
                "torch.no_grad() or .detach() inside the policy, or guide at 'state'"
            )
        clean = clean_estimate(leaf, velocity, sigma)
    values, at_clean = read(reward, clean.detach(), sigma * 0, condition)
    (gradient,) = torch.autograd.grad(clean, leaf, at_clean.to(clean.dtype))
    return velocity.detach(), values, gradient
