"""Experience: one scored batch of rollouts, as an update uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.seeding import generator
from samplers import Trajectory
from samplers.condition import Condition


@dataclass(frozen=True)
class Draw:
    """Which samples of the whole batch (over all processes) are drawn here, and from which seed.

    Attributes:
        seed: the run's seed.
        iteration: training iteration, from 0.
        prompts: the prompts of this process's groups.
        first_group: index of the first of them in the whole batch.
    """

    seed: int
    iteration: int
    prompts: Sequence[str]
    first_group: int = 0

    def members(self, group_size: int) -> list[tuple[int, int]]:
        """(group, member) of every sample, the members of a group side by side."""
        groups = range(self.first_group, self.first_group + len(self.prompts))
        return [(group, member) for group in groups for member in range(group_size)]


@dataclass(frozen=True)
class Experience:
    """B rollouts as an update uses them, the members of a group side by side.

    Attributes:
        draw: which samples they are.
        trajectory: states and log-probabilities under the policy that drew them.
        velocities: (N, B, ...) that policy's velocity at every step, kept only if needed.
        condition: the encoded prompts.
        rewards: outcome reward -> (B,).
        steps: (B, K) the trained steps of each sample.
        samples: (S,) the trained samples, ascending.
    """

    draw: Draw
    trajectory: Trajectory
    velocities: Tensor | None
    condition: Condition
    rewards: dict[str, Tensor]
    steps: Tensor
    samples: Tensor

    @property
    def group_size(self) -> int:
        """Members of a group."""
        return len(self.steps) // len(self.draw.prompts)

    def trained(self) -> tuple[Tensor, Tensor]:
        """(n,) sample and (n,) step of every trained pair, sample by sample."""
        steps = self.steps[self.samples]
        return self.samples.repeat_interleave(steps.shape[1]), steps.flatten()

    def generators(self, purpose: str, samples: Tensor, steps: Tensor) -> list[torch.Generator]:
        """A generator for each (sample, step), independent of the rest of the batch.

        Args:
            purpose: what it is used to draw.
            samples: (n,) positions among the B rollouts.
            steps: (n,) steps.
        """
        members = self.draw.members(self.group_size)
        return [
            generator(self.draw.seed, purpose, self.draw.iteration, *members[sample], step)
            for sample, step in zip(samples.tolist(), steps.tolist(), strict=True)
        ]
