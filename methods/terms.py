"""Reward terms and their advantages for each sample and step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from methods.advantages import group_advantages
from methods.experience import Experience
from methods.method import Method


@dataclass(frozen=True)
class Terms:
    """Names and weights of the reward terms, in the order of `Pairs.advantages`."""

    names: tuple[str, ...]
    weights: tuple[float, ...]


def reward_terms(method: Method, outcome_weights: Mapping[str, float]) -> Terms:
    """One term per outcome reward, and one for the process reward if the method uses it."""
    names = list(outcome_weights)
    weights = [method.outcome_weight * weight for weight in outcome_weights.values()]
    if method.process is not None:
        names, weights = [*names, "process"], [*weights, method.process.weight]
    return Terms(tuple(names), tuple(weights))


def step_advantages(
    experience: Experience, method: Method, terms: Terms, accelerator: Accelerator | None = None
) -> Tensor:
    """(terms, N, B) the advantage of each sample at each step; an outcome reward's is the same at all steps.

    Args:
        experience: this process's rollouts.
        method: sets which samples are compared.
        terms: the reward terms.
        accelerator: the processes that share the batch; None for this one alone.
    """
    trajectory, rows = experience.trajectory, []
    for name in terms.names:
        if name == "process":
            assert method.process is not None
            rows.append(_advantages(trajectory.process_credit(method.process.credit), method, accelerator))
        else:
            outcome = _advantages(experience.rewards[name], method, accelerator)
            rows.append(outcome.expand(trajectory.num_steps, -1))
    return torch.stack(rows)


def _advantages(rewards: Tensor, method: Method, accelerator: Accelerator | None) -> Tensor:
    """Advantages (..., B) of this process's samples; a std over the batch covers the samples of all processes."""
    if accelerator is None or accelerator.num_processes == 1 or method.advantage.std == "group":
        return group_advantages(rewards, method.group_size, method.advantage)
    count = rewards.shape[-1]
    everyone = accelerator.gather(rewards.movedim(-1, 0).contiguous()).movedim(0, -1)
    advantages = group_advantages(everyone, method.group_size, method.advantage)
    return advantages.narrow(-1, count * accelerator.process_index, count)
