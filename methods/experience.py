"""Collecting experience: one batch of rollouts, scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.guiding import Rewards
from methods.metering import Meter, unmetered
from methods.method import Method
from methods.seeding import generator
from rewards.base import scored
from samplers import Sampler, Trajectory
from samplers.pipeline import Condition, PipelinePolicy


@dataclass(frozen=True)
class Draw:
    """Which samples of the whole (all processes') batch are drawn here, and from which seed.

    Attributes:
        seed: the run's seed.
        iteration: training iteration, from 0.
        prompts: the prompts of this process's groups.
        first_group: number of the first of them in the whole batch.
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
    """B rollouts, the members of a group side by side, as an update reads them.

    Attributes:
        draw: which samples they are.
        trajectory: states and log-probabilities under the policy that drew them.
        velocities: (N, B, ...) that policy's velocity at every step, kept only where distillation is anchored there.
        condition: the encoded prompts.
        videos: (B, F, 3, H, W) in [0, 1].
        rewards: outcome reward -> (B,).
        steps: (B, K) the steps that train each sample.
    """

    draw: Draw
    trajectory: Trajectory
    velocities: Tensor | None
    condition: Condition
    videos: Tensor
    rewards: dict[str, Tensor]
    steps: Tensor

    def generators(self, purpose: str, samples: Tensor, steps: Tensor) -> list[torch.Generator]:
        """A generator for each (sample, step), which depends on nothing else of the batch.

        Args:
            purpose: what is drawn.
            samples: (n,) positions among the B rollouts.
            steps: (n,) steps.
        """
        members = self.draw.members(len(self.steps) // len(self.draw.prompts))
        return [
            generator(self.draw.seed, purpose, self.draw.iteration, *members[sample], step)
            for sample, step in zip(samples.tolist(), steps.tolist(), strict=True)
        ]


def collect(
    policy: PipelinePolicy,
    sampler: Sampler,
    method: Method,
    draw: Draw,
    rewards: Rewards,
    meter: Meter = unmetered,
) -> Experience:
    """Draws `method.group_size` videos for each prompt, all in one batch, and scores them.

    Args:
        policy: the policy as it is now.
        sampler: the method's, at this iteration.
        method: whose settings say how rollouts are drawn.
        draw: which samples.
        rewards: the run's.
        meter: counts the work.

    Raises:
        RewardError: an outcome reward failed; names prompt, reward and iteration.
        NonFiniteError: the policy or the process reward gave NaN or infinity; names the step.
    """
    members = draw.members(method.group_size)
    prompts = [prompt for prompt in draw.prompts for _ in range(method.group_size)]
    condition = policy.encode(prompts)
    velocities: list[Tensor] = []

    def velocity(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        result = policy.velocity(x, sigma, condition)
        if method.distillation is not None and method.distillation.anchor == "policy":
            velocities.append(result.detach())
        return result

    noise = policy.initial_noise(_initial_generators(draw, members, method.same_initial_noise))
    rewards = rewards.metered(meter)
    directions = [generator(draw.seed, "directions", draw.iteration, *member) for member in members]
    guide = rewards.of_rollouts(method, directions, draw.iteration + 1)
    evaluations = len(members) * sampler.num_steps * condition.branches
    guidance = sampler.settings.guidance
    where = None if guidance is None else (guidance.at, method.gradient_source)
    key = (tuple(noise.shape), sampler.guided_steps, where)
    with meter("rollout", key, videos=len(members), nfe=evaluations):
        trajectory = sampler.rollout(
            velocity,
            noise,
            condition,
            [generator(draw.seed, "steps", draw.iteration, *member) for member in members],
            reward=guide,
            score_states=method.process is not None,
        )
    videos = rewards.decode(trajectory.final)
    values = {
        name: scored(name, outcome, videos, prompts, draw.iteration + 1)
        for name, outcome in rewards.outcomes.items()
    }
    steps = torch.stack([_steps(sampler, method, draw, member) for member in members])
    kept = torch.stack(velocities) if velocities else None
    return Experience(draw, trajectory, kept, condition, videos, values, steps)


def _initial_generators(draw: Draw, members: list[tuple[int, int]], same: bool) -> list[torch.Generator]:
    """One generator a sample; a group that starts from one noise gets equal ones."""
    return [
        generator(draw.seed, "initial", draw.iteration, group, 0 if same else member)
        for group, member in members
    ]


def _steps(sampler: Sampler, method: Method, draw: Draw, member: tuple[int, int]) -> Tensor:
    """(K,) the steps that train one sample: a random share of those with a density."""
    last = sampler.num_steps if method.train_last_step else sampler.num_steps - 1
    eligible = torch.tensor([step for step in range(last) if sampler.stochastic(step)])
    if not len(eligible):
        raise ValueError(
            f"{method.name}: no step can be trained: none before the last is stochastic; "
            "give sampler.noise.level > 0, a wider window, or train_last_step"
        )
    count = max(1, math.floor(method.train_fraction * len(eligible)))
    order = torch.randperm(len(eligible), generator=generator(draw.seed, "trained", draw.iteration, *member))
    return eligible[order[:count]].sort().values
