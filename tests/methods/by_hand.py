"""The loss of a method written out from the equations, one transition at a time: what the update is compared with.

It shares with the package the policy's velocity, the rewards and the settings, and nothing else.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from methods.experience import Experience
from methods.guiding import Rewards
from methods.method import Method
from methods.parts import AdvantageSettings
from samplers import Guidance, SamplerSettings
from samplers.condition import Condition
from samplers.pipeline import PipelinePolicy


def coefficient(settings: SamplerSettings, sigmas: list[float], step: int) -> float:
    """g(t) of the guided SDE."""
    t, level = sigmas[step], settings.noise.level
    assert settings.kernel == "euler_maruyama", "write this kernel's mean and std out here"
    match settings.noise.kind:
        case "constant":
            return level
        case "flow_grpo":
            return level * math.sqrt(t / max(1 - t, 1 - sigmas[1]))
    raise NotImplementedError(f"write g(t) of {settings.noise.kind!r} out here")


def shift(guidance: Guidance | None, g: float, step: float) -> float:
    """How far a unit gradient moves the mean."""
    if guidance is None:
        return 0.0
    if guidance.strength is not None:
        return guidance.strength * g**2 * step / 2
    assert guidance.scale is not None
    return guidance.scale * step


def advantages(values: Tensor, group_size: int, choice: AdvantageSettings) -> np.ndarray:
    """(B,) rewards to (B,) advantages; a group of equal rewards is 0."""
    groups = values.double().numpy().reshape(-1, group_size)
    axis = 1 if choice.std == "group" else None
    std = groups.std(axis=axis, ddof=int(choice.unbiased), keepdims=True)
    result = (groups - groups.mean(axis=1, keepdims=True)) / (std + choice.eps)
    result[np.ptp(groups, axis=1) == 0] = 0
    return result.clip(-choice.clip, choice.clip).flatten()


def reward_rows(
    experience: Experience, method: Method, weights: dict[str, float]
) -> list[tuple[float, np.ndarray]]:
    """(weight, (N, B) advantages) of each reward term."""
    steps = experience.trajectory.num_steps
    rows = []
    for name, weight in weights.items():
        row = advantages(experience.rewards[name], method.group_size, method.advantage)
        rows.append((method.outcome_weight * weight, np.tile(row, (steps, 1))))
    if method.process is not None:
        values = experience.trajectory.process_rewards
        assert values is not None
        credit = {
            "state": values[:-1],
            "next_state": values[1:],
            "difference": values[1:] - values[:-1],
        }[method.process.credit]
        per_step = [advantages(row, method.group_size, method.advantage) for row in credit]
        rows.append((method.process.weight, np.stack(per_step)))
    return rows


def target_guidance(method: Method, settings: SamplerSettings) -> Guidance | None:
    """The guidance of what is distilled: the rollouts' own, or theirs at another strength; None where it is 0."""
    assert method.distillation is not None
    guidance, strength = settings.guidance, method.distillation.strength
    if strength is not None:
        shape = {} if guidance is None else dict(guidance)
        guidance = Guidance(**{**shape, "strength": strength, "scale": None})
    return guidance if guidance is not None and (guidance.strength or guidance.scale) else None


def inside(guidance: Guidance | None, step: int, num_steps: int) -> bool:
    """Whether a step lies in the window of a guidance."""
    return (
        guidance is not None and step in range(num_steps)[guidance.start : guidance.stop : guidance.interval]
    )


def reward_slope(
    guidance: Guidance,
    by_outcome: bool,
    rewards: Rewards,
    network: PipelinePolicy,
    at: tuple[Tensor, Tensor, Condition],
) -> Tensor:
    """The gradient of the reward that guides, in the state of one sample."""
    x, t, condition = at
    leaf = x.detach().clone().requires_grad_(True)
    seen = leaf
    if guidance.at == "x0_hat":
        seen, t = leaf - t.view(-1, 1, 1, 1, 1) * network.velocity(leaf, t, condition), torch.zeros_like(t)
    if by_outcome:
        videos = rewards.decode(seen)
        scores = [
            rewards.weights[name] * reward(videos, condition.prompts)
            for name, reward in rewards.outcomes.items()
        ]
        value = torch.stack(scores).sum()
    else:
        assert rewards.process is not None
        value = rewards.process(seen, t, condition).sum()
    (slope,) = torch.autograd.grad(value, leaf)
    slope = slope[0].double()
    if guidance.normalisation == "sample":
        slope = slope / slope.norm()
    if guidance.clip is not None:
        slope = slope * min(1.0, guidance.clip / slope.square().mean().sqrt().item())
    return slope


def loss_by_hand(
    policy: PipelinePolicy,
    base: PipelinePolicy,
    method: Method,
    experience: Experience,
    rewards: Rewards,
    iteration: int = 0,
) -> Tensor:
    """The method's loss over all trained transitions, differentiable in the policy's weights.

    Args:
        policy: being trained.
        base: the untrained model.
        method: its settings.
        experience: the rollouts.
        rewards: the run's.
        iteration: for the decays.
    """
    settings = method.sampler_at(iteration)
    trajectory, condition = experience.trajectory, experience.condition
    sigmas = trajectory.sigmas.tolist()
    rows = reward_rows(experience, method, rewards.weights)
    losses = []
    for sample, steps in enumerate(experience.steps.tolist()):
        for i in steps:
            t, step = sigmas[i], sigmas[i] - sigmas[i + 1]
            g = coefficient(settings, sigmas, i)
            x, x_next = trajectory.states[i, sample], trajectory.states[i + 1, sample]
            at = (x[None], torch.tensor([t]), condition.select([sample]))
            v = policy.velocity(*at)[0].double()
            mean = x - step * v + g**2 * step / 2 * -(x + (1 - t) * v) / t
            gradient = trajectory.reward_gradients.get(i)
            if gradient is not None and settings.score_mean == "guided":
                mean = mean + shift(settings.guidance, g, step) * gradient[sample]
            density = torch.distributions.Normal(mean, g * math.sqrt(step))
            rho = (density.log_prob(x_next.double()).mean() - trajectory.log_probs[i, sample]).exp()
            clipped = rho.clamp(1 - method.objective.clip_range, 1 + method.objective.clip_range)
            loss = sum(
                weight * torch.maximum(-row[i, sample] * rho, -row[i, sample] * clipped)
                for weight, row in rows
            )
            distillation = method.distillation
            if distillation is not None:
                anchored = distillation.anchor == "base"
                with torch.no_grad():
                    target = (base.velocity(*at) if anchored else experience.velocities[i, sample][None])[0]
                guidance = target_guidance(method, settings)
                guided = inside(guidance, i, trajectory.num_steps)
                if guided:
                    if guidance.at == "x0_hat" and not anchored and method.guided:
                        slope = gradient[sample]  # of the policy that drew it, which is gone
                    else:
                        network, by_outcome = (
                            base if anchored else policy,
                            method.outcome_guidance is not None,
                        )
                        slope = reward_slope(guidance, by_outcome, rewards, network, at)
                    pull = step + g**2 * step / 2 * (1 - t) / t
                    target = target - shift(guidance, g, step) / pull * slope
                if guided or anchored:
                    kl = step * (1 + g**2 * (1 - t) / (2 * t)) ** 2 / (2 * g**2)
                    weight = distillation.weight * distillation.decay**iteration
                    loss = loss + weight * kl * (v - target).square().mean()
            losses.append(loss)
    return torch.stack(losses).mean()
