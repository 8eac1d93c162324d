"""The interface of an objective: a method's loss, the data it is evaluated on, and what it needs from a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from methods.batches import Pairs
from methods.experience import Experience
from methods.parts import Settings
from samplers import Sampler
from samplers.condition import Condition
from samplers.sampler import KLWeighting
from samplers.trajectory import Keep

#: A network that a method evaluates: the policy, its base model, or a copy of the policy kept by the objective.
Network = Literal["policy", "base", "old"]


class Needs(NamedTuple):
    """What an objective needs from a run.

    Attributes:
        density: whether it scores the rollouts' own steps, which requires noise at the trained steps.
        states: the rollout states it reads: both ends of every "stochastic" step, or a number of final states
            (1: only the finished sample).
        base: whether it evaluates the base model itself; a KL to the base model belongs to the method.
        copies: copies of the trained weights that the objective keeps and updates in `Objective.after_update`.
        velocities: whether it reads the velocity that drew each step of the rollouts.
        rollouts: the network that draws the rollouts.
        differentiable: whether it takes the outcome rewards' gradient through the decoder.
    """

    density: bool = False
    states: Literal["stochastic"] | int = 1
    base: bool = False
    copies: frozenset[str] = frozenset()
    velocities: bool = False
    rollouts: Network = "policy"
    differentiable: bool = False

    def keep(self, num_steps: int) -> Keep:
        """The same, in the form a rollout of this many steps expects."""
        if isinstance(self.states, int):
            return range(num_steps + 1 - self.states, num_steps + 1)
        return self.states


class Context(Protocol):
    """The run, as a loss sees it.

    Attributes:
        sampler: the rollouts' sampler at this iteration.
        iteration: from 0.
        names: the reward terms, in the order of `Pairs.advantages`; that of the process reward is called "process".
        weights: (terms,) weight of each in the loss.
    """

    @property
    def sampler(self) -> Sampler: ...  # noqa: D102
    @property
    def iteration(self) -> int: ...  # noqa: D102
    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def weights(self) -> Tensor: ...  # noqa: D102

    def velocity(self, of: Network, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """(n, ...) velocity at x (n, ...) and noise levels sigma (n,); differentiable only for the policy."""

    def reward(self, latents: Tensor, condition: Condition) -> Tensor:
        """(n,) weighted sum of the outcome rewards of clean latents (n, ...), differentiable."""


@dataclass(frozen=True)
class Loss:
    """The loss of n rows.

    Attributes:
        parts: name -> (n,) losses of the rows, weighted and differentiable. The loss is the sum of their means.
        velocity: (n, ...) the policy's at `Pairs.x`, differentiable, for a KL to a reference.
        figures: name -> value to record, a mean over the rows.
    """

    parts: Mapping[str, Tensor]
    velocity: Tensor
    figures: Mapping[str, float] = field(default_factory=dict)


class Objective(Settings, ABC):
    """A method's loss. A subclass has a `kind`, declares what it needs, and computes the loss of each row.

    A row's loss may depend only on that row, because batches are split into micro-batches.

    Attributes:
        kind: its name in settings.
    """

    #: Kind -> class; `methods.objectives` fills it.
    registry: ClassVar[Mapping[str, type[Objective]]] = {}

    kind: str

    @property
    def needs(self) -> Needs:
        """What it needs from a run; by default only the finished samples."""
        return Needs()

    @abstractmethod
    def refusal(self, sampler: Sampler) -> str | None:
        """Why it cannot train with a sampler, and the remedy; None if it can."""

    @abstractmethod
    def steps(self, sampler: Sampler, choice: torch.Generator) -> Tensor:
        """(K,) trained steps of one sample, ascending; K is the same for all samples."""

    @abstractmethod
    def batch(self, experience: Experience, advantages: Tensor, at: Context) -> Pairs:
        """The rows to train on.

        Args:
            experience: this process's rollouts.
            advantages: (terms, N, B) of each sample at each step.
            at: the policy that drew the rollouts.
        """

    @abstractmethod
    def loss(self, pairs: Any, at: Context) -> Loss:
        """The loss of some rows of the result of `batch`."""

    def evaluations(self, rows: int) -> int:
        """Network evaluations needed to train on this many rows, for the ledger; without those of a KL."""
        return rows

    def after_update(self, copies: Mapping[str, list[Tensor]], trained: list[Tensor], iteration: int) -> None:
        """Updates the objective's copies in place after the policy's update; iterations count from 0."""

    def divergence(self, velocity: Tensor, reference: Tensor, step: Tensor, sampler: Sampler) -> Tensor:
        """(n,) divergence from a reference velocity (n, ...): the transition's KL, or the mean |v - v_ref|^2."""
        weighting: KLWeighting = "exact" if self.needs.density else "velocity"
        return sampler.kl_divergence(velocity, reference, step, weighting)


class StepObjective(Objective):
    """An objective that trains a random fraction of the sampler's noise levels, drawn for each sample.

    Attributes:
        train_fraction: fraction of the eligible steps, rounded down; at least one.
        train_last_step: whether the step to sigma = 0 is eligible.
    """

    train_fraction: float = Field(default=1.0, gt=0, le=1)
    train_last_step: bool = False

    def eligible(self, sampler: Sampler) -> list[int]:
        """The steps that may be trained: those with noise if the loss needs a density."""
        last = sampler.num_steps if self.train_last_step else sampler.num_steps - 1
        return [step for step in range(last) if not self.needs.density or sampler.stochastic(step)]

    def refusal(self, sampler: Sampler) -> str | None:
        """If no step is eligible."""
        if self.eligible(sampler):
            return None
        if not self.needs.density:
            return (
                "a rollout has one step, the last; give more sampler.num_steps, or objective.train_last_step"
            )
        return (
            "none of the steps that may be trained has noise; give sampler.noise.level > 0, a wider sampler.window, or "
            "objective.train_last_step"
        )

    def steps(self, sampler: Sampler, choice: torch.Generator) -> Tensor:
        """(K,) a random subset of the eligible steps."""
        eligible = torch.tensor(self.eligible(sampler))
        count = max(1, math.floor(self.train_fraction * len(eligible)))
        return eligible[torch.randperm(len(eligible), generator=choice)[:count]].sort().values


def levels(pairs: Pairs, at: Context) -> Tensor:
    """(n,) noise levels of some rows."""
    return at.sampler.sigmas[pairs.step].to(pairs.x.device, torch.float32)


def combined(advantages: Tensor, at: Context) -> Tensor:
    """(n,) one advantage per row: the weighted sum of (terms, n)."""
    return at.weights @ advantages


def clipping(log_ratio: Tensor, clip_range: float) -> dict[str, float]:
    """Statistics of ratios: how far they are from 1, and how many are clipped."""
    deviation = (log_ratio.detach().exp() - 1).abs()
    return {
        "ratio_deviation": deviation.mean().item(),
        "clip_fraction": (deviation > clip_range).float().mean().item(),
    }


def follow(copy: list[Tensor], trained: list[Tensor], kept: float) -> None:
    """Moves a copy towards the trained weights in place, keeping a fraction of itself."""
    torch._foreach_lerp_(copy, trained, 1 - kept)
