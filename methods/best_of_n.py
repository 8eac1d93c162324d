"""Best-of-n fine-tuning: flow matching on the best of a base model's own videos. Not reinforcement learning.

The baseline for methods that learn a process reward from preference data: it uses the same videos with the same scores
directly. Training draws no samples and calls no reward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from methods.parts import Optimiser
from methods.seeding import generator
from methods.weights import TrainedWeights
from rewards.preferences import PreferenceData
from samplers.condition import Condition
from samplers.pipeline import PipelinePolicy

REFERENCE = "best-of-n: flow matching on the best videos of the preference data (docs/best_of_n.md)"


class BestOfN(BaseModel):
    """Everything that defines best-of-n fine-tuning.

    Attributes:
        name: its name in tables.
        reference: a one-line description.
        data: preference data of the base model, made by `python -m benchmarks.preferences`.
        keep: fraction of each prompt's videos to train on, the best ones; at least one video.
        batch: videos per step.
        steps: optimiser steps per iteration, which is only the unit of the records.
        every: iterations between evaluations; `evaluation.every` of a run counts batches of rollouts, not these.
        optimiser: AdamW's settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "best_of_n"
    reference: str = REFERENCE
    data: Path
    keep: float = Field(default=0.125, gt=0, le=1)
    batch: int = Field(default=64, ge=1)
    steps: int = Field(default=10, ge=1)
    every: int = Field(default=10, ge=1)
    optimiser: Optimiser = Optimiser(learning_rate=1e-3)


def best_share(data: PreferenceData, keep: float) -> Tensor:
    """Positions of the best samples of each prompt.

    Args:
        data: the scored samples.
        keep: fraction of each prompt's samples, rounded to whole samples; at least one is kept. Ties go to the earlier
            sample.

    Returns:
        (K,) positions, ascending.
    """
    kept = []
    for prompt in range(len(data.prompts)):
        rows = torch.nonzero(data.prompt == prompt).flatten()
        order = torch.argsort(data.scores[rows], descending=True, stable=True)
        kept.append(rows[order[: max(1, round(keep * len(rows)))]])
    return torch.cat(kept).sort().values


@dataclass(frozen=True)
class Batch:
    """B noised videos.

    Attributes:
        clean: (B, C, F', H', W') latents.
        noise: (B, C, F', H', W') the noise added to them.
        sigma: (B,) noise levels.
        condition: their encoded prompts, without guidance.
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    condition: Condition

    def __len__(self) -> int:
        return len(self.clean)

    def rows(self, rows: Tensor) -> Batch:
        """Some of them."""
        return Batch(
            self.clean[rows], self.noise[rows], self.sigma[rows], self.condition.select(rows.tolist())
        )


@dataclass(frozen=True)
class Kept:
    """The training videos.

    Attributes:
        latents: (K, C, F', H', W').
        prompt: (K,) position of each one's prompt.
        condition: the encoded P prompts, without guidance.
    """

    latents: Tensor
    prompt: Tensor
    condition: Condition

    @classmethod
    def of(cls, data: PreferenceData, keep: float, policy: PipelinePolicy) -> Kept:
        """The best share of each prompt, on the policy's device.

        Classifier-free guidance applies only to sampling; the conditional velocity is trained, as in pretraining.
        """
        rows, encoded = best_share(data, keep), policy.encode(data.prompts)
        condition = Condition(encoded.prompts, encoded.text)
        return cls(data.latents[rows].to(policy.device, torch.float32), data.prompt[rows], condition)

    def batch(self, size: int, shift: float, seed: int, step: int) -> Batch:
        """One step's batch, drawn with replacement; draws depend only on seed and step.

        Args:
            size: videos.
            shift: noise levels are drawn uniformly and shifted by this factor, as pretraining draws them.
            seed: the run's.
            step: optimiser step, from 0.
        """
        device = self.latents.device
        chosen = torch.randint(len(self.latents), (size,), generator=generator(seed, "best-of-n rows", step))
        uniform = torch.rand(size, generator=generator(seed, "best-of-n levels", step))
        sigma = shift * uniform / (1 + (shift - 1) * uniform)
        shape = (size, *self.latents.shape[1:])
        noise = torch.randn(shape, generator=generator(seed, "best-of-n noise", step))
        condition = self.condition.select(self.prompt[chosen].tolist())
        return Batch(self.latents[chosen.to(device)], noise.to(device), sigma.to(device), condition)


def flow_matching_loss(policy: PipelinePolicy, batch: Batch) -> Tensor:
    """Mean of |v(x_t, t, c) - (e - x0)|^2 over videos and elements, at x_t = (1 - t) x0 + t e."""
    level = batch.sigma.view(-1, *[1] * (batch.clean.ndim - 1))
    velocity = policy.velocity((1 - level) * batch.clean + level * batch.noise, batch.sigma, batch.condition)
    return (velocity - (batch.noise - batch.clean)).square().mean()


@dataclass
class FineTuner:
    """A policy being fine-tuned.

    Attributes:
        policy: the policy, its transformer as it is.
        network: the same transformer, wrapped by accelerate.
        weights: its trained part.
        method: the settings.
        optimiser: prepared by accelerate.
        accelerator: device and precision.
        micro_batch: videos in one forward and backward pass; results do not depend on it.
    """

    policy: PipelinePolicy
    network: nn.Module
    weights: TrainedWeights
    method: BestOfN
    optimiser: torch.optim.Optimizer
    accelerator: Accelerator
    micro_batch: int = 512

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss, and the gradient's norm before clipping.

        Raises:
            FloatingPointError: loss or gradient is not finite; no optimiser step was taken.
        """
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        with self._wrapped():
            for rows in torch.arange(len(batch)).split(self.micro_batch):
                loss = flow_matching_loss(self.policy, batch.rows(rows)) * (len(rows) / len(batch))
                self.accelerator.backward(loss)
                total += loss.item()
        norm = self.accelerator.clip_grad_norm_(self.weights.parameters, self.method.optimiser.max_grad_norm)
        if not torch.isfinite(norm) or not torch.isfinite(torch.tensor(total)):
            raise FloatingPointError(
                f"{self.method.name}: the loss is {total} and the gradient's norm {norm.item()}; lower "
                f"optimiser.learning_rate, which is {self.method.optimiser.learning_rate:g}"
            )
        self.optimiser.step()
        return {"loss": total, "gradient_norm": norm.item()}

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        """In this context the policy's velocity goes through accelerate's wrapper."""
        plain = self.policy.denoiser
        self.policy.denoiser = self.network
        try:
            yield
        finally:
            self.policy.denoiser = plain
