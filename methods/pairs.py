"""Trained transitions: each a sample at one of its steps, with the advantage of every reward term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from methods.advantages import group_advantages
from methods.experience import Experience
from methods.method import Method
from samplers.pipeline import Condition


@dataclass(frozen=True)
class Pairs:
    """n transitions to train on: each a sample at one of its steps.

    Attributes:
        sample: (n,) which sample of the rollouts it is.
        step: (n,) the step.
        x, x_next: (n, ...) the states before and after it.
        log_prob: (n,) under the policy that drew it.
        gradient: (n, ...) the reward gradient that guided it, 0 where none did; None for unguided methods.
        velocity: (n, ...) of the policy that drew it; None unless distillation is anchored there.
        condition: the n encoded prompts.
        advantages: (terms, n) one row for each reward term.
    """

    sample: Tensor
    step: Tensor
    x: Tensor
    x_next: Tensor
    log_prob: Tensor
    gradient: Tensor | None
    velocity: Tensor | None
    condition: Condition
    advantages: Tensor

    def __len__(self) -> int:
        return len(self.step)

    def rows(self, rows: Tensor) -> Pairs:
        """The pairs at `rows`."""
        return Pairs(
            self.sample[rows],
            self.step[rows],
            self.x[rows],
            self.x_next[rows],
            self.log_prob[rows],
            None if self.gradient is None else self.gradient[rows],
            None if self.velocity is None else self.velocity[rows],
            self.condition.select(rows.tolist()),
            self.advantages[:, rows],
        )


@dataclass(frozen=True)
class Terms:
    """What the reward terms are called, and their weights, in the order of `Pairs.advantages`."""

    names: tuple[str, ...]
    weights: tuple[float, ...]


def reward_terms(method: Method, outcome_weights: Mapping[str, float]) -> Terms:
    """One term for each outcome reward, and one for the process reward where the method has it."""
    names = list(outcome_weights)
    weights = [method.outcome_weight * weight for weight in outcome_weights.values()]
    if method.process is not None:
        names, weights = [*names, "process"], [*weights, method.process.weight]
    return Terms(tuple(names), tuple(weights))


def make_pairs(
    experience: Experience, method: Method, terms: Terms, accelerator: Accelerator | None = None
) -> Pairs:
    """Flattens the trained (sample, step) pairs, sample by sample, and computes their advantages.

    Args:
        experience: this process's rollouts.
        method: whose settings say what is compared with what.
        terms: the reward terms.
        accelerator: the processes that share the batch; None for this one alone.
    """
    steps = experience.steps
    trajectory = experience.trajectory
    sample = torch.arange(len(steps)).repeat_interleave(steps.shape[1])
    step = steps.flatten()
    rows = []
    for name in terms.names:
        if name == "process":
            assert method.process is not None
            credit = trajectory.process_credit(method.process.credit)
            rows.append(_advantages(credit, method, accelerator)[step, sample])
        else:
            rows.append(_advantages(experience.rewards[name], method, accelerator)[sample])
    return Pairs(
        sample=sample,
        step=step,
        x=trajectory.states[step, sample],
        x_next=trajectory.states[step + 1, sample],
        log_prob=trajectory.log_probs[step, sample],
        gradient=_gradients(experience)[step, sample] if trajectory.reward_gradients else None,
        velocity=None if experience.velocities is None else experience.velocities[step, sample],
        condition=experience.condition.select(sample.tolist()),
        advantages=torch.stack(rows),
    )


def _advantages(rewards: Tensor, method: Method, accelerator: Accelerator | None) -> Tensor:
    """Advantages (..., B) of this process's samples; a std over the batch is one over all processes' samples."""
    if accelerator is None or accelerator.num_processes == 1 or method.advantage.std == "group":
        return group_advantages(rewards, method.group_size, method.advantage)
    count = rewards.shape[-1]
    everyone = accelerator.gather(rewards.movedim(-1, 0).contiguous()).movedim(0, -1)
    advantages = group_advantages(everyone, method.group_size, method.advantage)
    return advantages.narrow(-1, count * accelerator.process_index, count)


def _gradients(experience: Experience) -> Tensor:
    """(N, B, ...) the gradient that guided each step, 0 where none did."""
    trajectory = experience.trajectory
    dense = torch.zeros((trajectory.num_steps, *trajectory.final.shape), device=trajectory.final.device)
    for step, gradient in trajectory.reward_gradients.items():
        dense[step] = gradient
    return dense
