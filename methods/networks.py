"""The networks and rewards of a run, as a loss sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from methods.guiding import Rewards
from methods.objectives.base import Network
from methods.terms import Terms
from methods.weights import TrainedWeights
from samplers import Sampler
from samplers.condition import Condition
from samplers.pipeline import PipelinePolicy


@dataclass(frozen=True)
class Networks:
    """A policy and its copies at one iteration; the `methods.objectives.Context` of a run.

    Attributes:
        policy: the policy, its networks as they are.
        wrapped: the same networks, wrapped by accelerate (gradients averaged over processes).
        trained: its trained part, with the base model and the copies.
        accelerator: precision of the networks.
        terms: the reward terms.
        rewards: the run's.
        sampler: of this iteration's rollouts.
        iteration: from 0.
        micro_batch: rows in one pass without gradients.
    """

    policy: PipelinePolicy
    wrapped: nn.Module
    trained: TrainedWeights
    accelerator: Accelerator
    terms: Terms
    rewards: Rewards
    sampler: Sampler
    iteration: int
    micro_batch: int = 512

    @property
    def names(self) -> tuple[str, ...]:
        """The reward terms."""
        return self.terms.names

    @property
    def weights(self) -> Tensor:
        """(terms,) their weights in the loss."""
        return torch.tensor(self.terms.weights, device=self.policy.device)

    def velocity(self, of: Network, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """(n, ...) velocity at x (n, ...) and sigma (n,), on the device of x.

        The policy's is differentiable in its weights, the base model's in x if x requires it, a copy's in nothing.
        """
        if len(x) > self.micro_batch and not torch.is_grad_enabled():
            parts = torch.arange(len(x)).split(self.micro_batch)
            return torch.cat([self.velocity(of, x[p], sigma[p], condition.select(p.tolist())) for p in parts])
        device, where = self.policy.device, x.device
        x, sigma = x.to(device), sigma.to(device)
        if of == "policy":
            with self._through_accelerate():
                return self.policy.velocity(x, sigma, condition).to(where)
        # In the policy's own precision, which accelerate's wrapper sees to otherwise.
        with torch.set_grad_enabled(x.requires_grad), self.accelerator.autocast(), self.trained.using(of):
            return self.policy.velocity(x, sigma, condition).to(where)

    def reward(self, latents: Tensor, condition: Condition) -> Tensor:
        """(n,) weighted sum of the outcome rewards of clean latents (n, ...), differentiable."""
        values = self.rewards.differentiable(self.iteration + 1).values(latents, condition.prompts)
        weights = dict(zip(self.terms.names, self.terms.weights, strict=True))
        return torch.stack([weights[name] * value for name, value in values.items()]).sum(dim=0)

    @contextmanager
    def _through_accelerate(self) -> Iterator[None]:
        plain = self.policy.denoiser
        self.policy.denoiser = self.wrapped
        try:
            yield
        finally:
            self.policy.denoiser = plain
