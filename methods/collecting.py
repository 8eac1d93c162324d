"""Collecting experience: one batch of rollouts, scored."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.experience import Draw, Experience
from methods.guiding import Rewards
from methods.metering import Meter, unmetered
from methods.method import Method
from methods.seeding import generator
from rewards.base import scored
from samplers import Sampler, Trajectory
from samplers.condition import Condition
from samplers.pipeline import PipelinePolicy
from samplers.trajectory import joined


def collect(
    policy: PipelinePolicy,
    sampler: Sampler,
    method: Method,
    draw: Draw,
    rewards: Rewards,
    meter: Meter = unmetered,
    rollout_batch: int | None = None,
    store: str | None = None,
) -> Experience:
    """Draws `method.group_size` videos for each prompt and scores them.

    Args:
        policy: the policy as it is now.
        sampler: the method's at this iteration.
        method: sets how rollouts are drawn.
        draw: which samples to draw.
        rewards: the run's.
        meter: counts the compute.
        rollout_batch: samples drawn, decoded and scored at a time; None for all. It affects memory, not the samples.
        store: device on which rollouts are kept; None for the policy's. Affects memory, not the samples.

    Raises:
        RewardError: an outcome reward failed; names prompt, reward and iteration.
        NonFiniteError: the policy or the process reward returned NaN or infinity; names the step.
    """
    if problem := method.objective.refusal(sampler):
        raise ValueError(f"{method.name}: {problem}")
    members = draw.members(method.group_size)
    collector = _Collector(policy, sampler, method, draw, rewards.metered(meter), meter, store)
    size = len(members) if rollout_batch is None else rollout_batch
    parts = [collector.draw_some(members[first : first + size]) for first in range(0, len(members), size)]
    values = {name: torch.cat([part.rewards[name] for part in parts]) for name in rewards.outcomes}
    kept = [part.velocities for part in parts if part.velocities is not None]
    return Experience(
        draw,
        joined([part.trajectory for part in parts]),
        torch.cat(kept, dim=1) if kept else None,
        policy.encode([prompt for prompt in draw.prompts for _ in range(method.group_size)]),
        values,
        torch.stack(
            [method.objective.steps(sampler, choice) for choice in collector.generators("trained", members)]
        ),
        method.selected(rewards.total(values)),
    )


@dataclass(frozen=True)
class _Collector:
    """What all parts of a batch of rollouts share; the arguments of `collect`, the rewards metered."""

    policy: PipelinePolicy
    sampler: Sampler
    method: Method
    draw: Draw
    rewards: Rewards
    meter: Meter
    store: str | None

    def draw_some(self, members: Sequence[tuple[int, int]]) -> _Scored:
        """Draws and scores some (group, member) pairs in one batch; videos are discarded."""
        prompts = [self.draw.prompts[group - self.draw.first_group] for group, _ in members]
        condition = self.policy.encode(prompts)
        network = _Network(self, members)
        noise = self.policy.initial_noise(
            self.generators("initial", [(g, 0 if self.method.same_initial_noise else m) for g, m in members])
        )
        directions = self.generators("directions", members)
        guide, score = self.rewards.of_rollouts(self.method, directions, self.draw.iteration + 1)
        with self.meter(
            "rollout", self._key(noise, network), videos=len(members), nfe=network.evaluations(condition)
        ):
            trajectory = self.sampler.rollout(
                network.velocity,
                noise,
                condition,
                self.generators("steps", members),
                guide=guide,
                score=score,
                keep=self.method.objective.needs.keep(self.sampler.num_steps),
                store=self.store,
            )
        videos = self.rewards.decode(trajectory.final)
        values = {
            name: scored(name, outcome, videos, prompts, self.draw.iteration + 1)
            for name, outcome in self.rewards.outcomes.items()
        }
        return _Scored(trajectory, torch.stack(network.kept) if network.kept else None, values)

    def generators(self, purpose: str, members: Sequence[tuple[int, int]]) -> list[torch.Generator]:
        return [generator(self.draw.seed, purpose, self.draw.iteration, *member) for member in members]

    def _key(self, noise: Tensor, network: _Network) -> Hashable:
        """What the operation count of a rollout depends on, besides the model and its trained weights."""
        guidance = self.sampler.settings.guidance
        where = None if guidance is None else (guidance.at, self.method.gradient_source)
        return tuple(noise.shape), len(network.leaders), network.shared, self.sampler.guided_steps, where


@dataclass(frozen=True)
class _Scored:
    """Some rollouts: the fields of `Experience` computed with them."""

    trajectory: Trajectory
    velocities: Tensor | None
    rewards: dict[str, Tensor]


class _Network:
    """The policy's velocity in one rollout, evaluated once per group while its members are identical.

    Attributes:
        shared: initial steps at which the members of a group are identical: they start from the same noise, and
            no noise is drawn before the first stochastic step (Flow-GRPO-Fast, MixGRPO).
        leaders: position of the first member of each group.
        kept: the velocities of every step (B, ...), if distillation or the objective needs them.
    """

    def __init__(self, collector: _Collector, members: Sequence[tuple[int, int]]) -> None:
        method, sampler = collector.method, collector.sampler
        groups = [group for group, _ in members]
        distinct = list(dict.fromkeys(groups))
        differing = [a or b for a, b in zip(sampler.stochastic_steps, sampler.guided_steps, strict=True)]
        self._policy, self._steps, self._step = collector.policy, sampler.num_steps, 0
        anchored = method.distillation is not None and method.distillation.anchor == "policy"
        self._store = collector.store
        self._keep = anchored or method.objective.needs.velocities
        self._member = torch.tensor([distinct.index(group) for group in groups])
        self.shared = [*differing, True].index(True) if method.same_initial_noise else 0
        self.leaders = [groups.index(group) for group in distinct]
        self.kept: list[Tensor] = []

    def evaluations(self, condition: Condition) -> float:
        """Network evaluations of the whole rollout."""
        rows = len(self.leaders) * self.shared + len(self._member) * (self._steps - self.shared)
        return rows * condition.branches

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """(B, ...) velocity; called once per step, in order."""
        if self._step < self.shared:
            some = self.leaders
            result = self._policy.velocity(x[some], sigma[some], condition.select(some))[self._member]
        else:
            result = self._policy.velocity(x, sigma, condition)
        self._step += 1
        if self._keep:
            self.kept.append(result.detach().to(self._store or result.device))
        return result
