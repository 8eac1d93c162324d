"""Diagnostics beyond evaluation: a policy's distance from the base model, and the effect of guidance on it.

Computed on a few training prompts, from noise that is the same for every evaluation, method and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.schema import GUIDED, KL_TO_BASE, PROCESS_ACCURACY, UNGUIDED
from benchmarks.evaluation import evenly_spaced
from benchmarks.settings import RunSettings
from methods.method import Method
from methods.seeding import generator
from methods.update import Learner
from rewards.base import OutcomeReward, ProcessReward, scored
from rewards.suites import LoadedSuite
from samplers import Noise, Reward, Sampler, SamplerSettings, Trajectory, build
from samplers.condition import Condition


@torch.no_grad()
def diagnose(
    learner: Learner, suite: LoadedSuite, settings: RunSettings, process_reward: ProcessReward | None
) -> dict[str, float]:
    """All diagnostics that apply to a method, by metric.

    Args:
        learner: the current policy and its method.
        suite: rewards of the rollouts: those trained on, and the headline.
        settings: the prompts and noise to use.
        process_reward: the method's process reward, if it has one.

    Raises:
        RewardError: a reward failed.
        NonFiniteError: policy or process reward returned NaN or infinity.
    """
    prompts = evenly_spaced(settings.prompts.train, settings.evaluation.diagnostic_prompts)
    figures = {KL_TO_BASE: _kl_to_base(learner, settings, prompts)}
    if learner.method.guided or process_reward is not None:
        figures |= _of_rollouts(Rollouts(learner, suite, settings, process_reward, prompts))
    return figures


def _kl_to_base(learner: Learner, settings: RunSettings, prompts: list[str]) -> float:
    """Path-space KL of the policy to the base model in nats per video, under the memoryless SDE.

    Every SDE of the family has the marginals of the ODE, so the ODE's states stand for any; the memoryless noise
    (arXiv 2409.08861) is the one whose path KL the reward-tilted distribution minimises. It bounds the KL of the
    videos' latents from above, and does not depend on the noise that a method trains with.
    """
    choice = settings.evaluation
    group = [prompt for prompt in prompts for _ in range(choice.samples_per_prompt)]
    noise = learner.policy.initial_noise(
        [generator(choice.seed, "diagnostics", prompt, number) for number, prompt in enumerate(group)]
    )
    condition = learner.policy.encode(group)
    velocities: list[Tensor] = []

    def velocity(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        velocities.append(learner.policy.velocity(x, sigma, condition))
        return velocities[-1]

    ode = build("ode", num_steps=choice.num_steps, shift=choice.shift)
    states = ode.rollout(velocity, noise, condition).states
    memoryless = Sampler(
        SamplerSettings(
            num_steps=choice.num_steps,
            shift=choice.shift,
            noise=Noise(kind="memoryless"),
            log_prob_reduction="sum",
        )
    )
    total = torch.zeros(len(group), device=noise.device)
    with learner.accelerator.autocast(), learner.weights.reference():  # in the policy's own precision
        for step, mine in enumerate(velocities):
            sigma = torch.full((len(group),), float(ode.sigmas[step]), device=noise.device)
            base = learner.policy.velocity(states[step], sigma, condition)
            total += memoryless.kl_divergence(mine, base, step)
    return total.mean().item()


@dataclass(frozen=True)
class Rollouts:
    """Rollouts of a method's own sampler, each state scored by the process reward if there is one.

    Noise depends only on prompt and position.

    Attributes:
        learner: the policy and its method.
        suite: rewards of the finished videos.
        settings: the run's.
        process_reward: the method's, if it has one.
        prompts: one per group.
    """

    learner: Learner
    suite: LoadedSuite
    settings: RunSettings
    process_reward: ProcessReward | None
    prompts: list[str]

    @property
    def group(self) -> list[str]:
        """The prompt of every rollout, groups side by side."""
        return [prompt for prompt in self.prompts for _ in range(self.learner.method.group_size)]

    def _generators(self, purpose: str) -> list[torch.Generator]:
        seed = self.settings.evaluation.seed
        return [generator(seed, f"diagnostic {purpose}", text, k) for k, text in enumerate(self.group)]

    def draw(self, guided: bool) -> Trajectory:
        """One rollout per position, with or without guidance, from the same noise."""
        method, policy = self.learner.method, self.learner.policy
        unguided = {"guidance": None, "score_mean": "unguided"}
        settings = method.sampler if guided else method.sampler.replace(**unguided)
        window = generator(self.settings.evaluation.seed, "diagnostic window")
        guide: Reward | None = None
        if guided:
            guide = self.learner.rewards.guide(method, self._generators("directions"), iteration=0)
        return (
            Sampler(settings)
            .at_iteration(0, window)
            .rollout(
                policy,
                policy.initial_noise(self._generators("start")),
                policy.encode(self.group),
                self._generators("steps"),
                guide=guide,
                score=self.process_reward,
                keep="final",
            )
        )

    def rewards(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """Training rewards and headline of the videos, each (B,)."""
        videos = self.learner.policy.decode(trajectory.final)
        headline = self.suite.suite.headline
        asked: Mapping[str, OutcomeReward] = {**self.suite.training, headline: self.suite.all[headline]}
        return {name: scored(name, reward, videos, self.group, 0) for name, reward in asked.items()}


def _of_rollouts(rollouts: Rollouts) -> dict[str, float]:
    """Rewards of rollouts with and without guidance, and how well the process reward ranks those without.

    Guidance has its full strength, without decay, so a closing gap shows what the policy has learnt.
    """
    unguided = rollouts.draw(guided=False)
    rewards = rollouts.rewards(unguided)
    figures: dict[str, float] = {}
    if rollouts.learner.method.guided:
        with_guidance = rollouts.rewards(rollouts.draw(guided=True))
        for prefix, values in ((UNGUIDED, rewards), (GUIDED, with_guidance)):
            figures |= {f"{prefix}{name}": value.mean().item() for name, value in values.items()}
    if rollouts.process_reward is not None:
        weights = rollouts.suite.suite.training
        score = torch.stack([weight * rewards[name] for name, weight in weights.items()]).sum(dim=0)
        figures |= _accuracy_by_level(unguided, score, rollouts.learner.method)
        assert unguided.process_rewards is not None  # the rollout had a reward
        figures["diagnostic/process_reward"] = unguided.process_rewards[-1].mean().item()
    return figures


def _accuracy_by_level(trajectory: Trajectory, score: Tensor, method: Method) -> dict[str, float]:
    """At each noise level, the share of pairs of one prompt that the process reward orders as the outcome does."""
    values = trajectory.process_rewards
    assert values is not None  # the rollout had a reward
    pairwise = pairwise_accuracy(values, score, method.group_size)
    return {
        f"{PROCESS_ACCURACY}{float(sigma):.3g}": accuracy
        for sigma, accuracy in zip(trajectory.sigmas, pairwise.tolist(), strict=True)
    }


def pairwise_accuracy(values: Tensor, score: Tensor, group_size: int) -> Tensor:
    """Share of a group's pairs ordered the same by `values` and `score`.

    Args:
        values: (T, B) the values to judge, the members of a group side by side.
        score: (B,) the ground truth; pairs with equal scores are ignored.
        group_size: members of a group.

    Returns:
        (T,) between 0 and 1, with one half for equal values; NaN if all scores are tied.
    """
    mine = values.double().unflatten(-1, (-1, group_size))
    truth = score.double().unflatten(-1, (-1, group_size))
    ahead = (mine.unsqueeze(-1) - mine.unsqueeze(-2)).sign()
    decided = (truth.unsqueeze(-1) - truth.unsqueeze(-2)).sign()
    right = ((1 + ahead * decided) / 2 * decided.abs()).flatten(1).sum(dim=1)
    return right / decided.abs().sum()
