"""What evaluation cannot show: how far a policy has gone from the base model, and what guidance does to it.

Drawn for a few training prompts, from noise that is the same at every evaluation, for every method and seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.evaluation import evenly_spaced
from benchmarks.settings import RunSettings
from methods.method import Method
from methods.seeding import generator
from methods.update import Learner
from rewards.base import OutcomeReward, ProcessReward, scored
from rewards.suites import LoadedSuite
from samplers import Noise, Sampler, SamplerSettings, Trajectory, build
from samplers.pipeline import Condition


@torch.no_grad()
def diagnose(
    learner: Learner, suite: LoadedSuite, settings: RunSettings, process_reward: ProcessReward | None
) -> dict[str, float]:
    """All diagnostics that make sense for a method, by metric.

    Args:
        learner: the policy as it is now, and its method.
        suite: rewards of the rollouts: those trained on, and the headline.
        settings: which prompts, which noise.
        process_reward: the method's process reward, if it has one.

    Raises:
        RewardError: a reward failed.
        NonFiniteError: policy or process reward gave NaN or infinity.
    """
    prompts = evenly_spaced(settings.prompts.train, settings.evaluation.diagnostic_prompts)
    figures = {"kl_to_base": _kl_to_base(learner, settings, prompts)}
    if process_reward is not None:
        figures |= _of_process_reward(learner, suite, settings, process_reward, prompts)
    return {f"diagnostic/{name}": value for name, value in figures.items()}


def _kl_to_base(learner: Learner, settings: RunSettings, prompts: list[str]) -> float:
    """Path-space KL of the policy to the base model in nats a video, under the memoryless SDE.

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
    with learner.weights.reference():
        for step, mine in enumerate(velocities):
            sigma = torch.full((len(group),), float(ode.sigmas[step]), device=noise.device)
            base = learner.policy.velocity(states[step], sigma, condition)
            total += memoryless.kl_divergence(mine, base, step)
    return total.mean().item()


def _of_process_reward(
    learner: Learner,
    suite: LoadedSuite,
    settings: RunSettings,
    process_reward: ProcessReward,
    prompts: list[str],
) -> dict[str, float]:
    """Rewards of rollouts with and without guidance from the same noise, and how well the process reward ranks.

    Guidance is at its full strength, not as it has decayed: a gap that closes then says what the policy learnt.
    """
    method = learner.method
    group = [prompt for prompt in prompts for _ in range(method.group_size)]
    plain = method.sampler.replace(guidance=None, score_mean="unguided")
    kinds = {"unguided": plain}
    if method.guided:
        kinds["guided"] = method.sampler
    figures: dict[str, float] = {}
    for kind, sampler_settings in kinds.items():
        sampler = Sampler(sampler_settings).at_iteration(
            0, generator(settings.evaluation.seed, "diagnostic window")
        )
        trajectory = _rollout(learner, sampler, settings, process_reward, group)
        rewards = _rewards(learner, suite, trajectory, group)
        if method.guided:
            figures |= {f"{kind}/{name}": values.mean().item() for name, values in rewards.items()}
        if kind == "unguided":
            score = torch.stack(
                [weight * rewards[name] for name, weight in suite.suite.training.items()]
            ).sum(dim=0)
            figures |= _accuracy_by_level(trajectory, score, method)
    return figures


def _rollout(
    learner: Learner, sampler: Sampler, settings: RunSettings, reward: ProcessReward, group: list[str]
) -> Trajectory:
    """(B) rollouts, every state scored by the process reward; noise depends on prompt and place only."""
    seed = settings.evaluation.seed
    places = list(enumerate(group))
    return sampler.rollout(
        learner.policy,
        learner.policy.initial_noise([generator(seed, "diagnostic start", text, k) for k, text in places]),
        learner.policy.encode(group),
        [generator(seed, "diagnostic steps", text, k) for k, text in places],
        reward=reward,
        keep="final",
    )


def _rewards(
    learner: Learner, suite: LoadedSuite, trajectory: Trajectory, group: list[str]
) -> dict[str, Tensor]:
    """Training rewards and headline of some rollouts' videos, each (B,)."""
    videos = learner.policy.decode(trajectory.final)
    headline = suite.suite.headline
    asked: Mapping[str, OutcomeReward] = {**suite.training, headline: suite.all[headline]}
    return {name: scored(name, reward, videos, group, 0) for name, reward in asked.items()}


def _accuracy_by_level(trajectory: Trajectory, score: Tensor, method: Method) -> dict[str, float]:
    """At each noise level, the share of pairs of one prompt that the process reward orders as the outcome does."""
    values = trajectory.process_rewards
    assert values is not None  # the rollout had a reward
    pairwise = pairwise_accuracy(values, score, method.group_size)
    return {
        f"process_accuracy/{float(sigma):.3g}": accuracy
        for sigma, accuracy in zip(trajectory.sigmas, pairwise.tolist(), strict=True)
    }


def pairwise_accuracy(values: Tensor, score: Tensor, group_size: int) -> Tensor:
    """Share of a group's pairs that `values` order as `score` does.

    Args:
        values: (T, B) what is judged, the members of a group side by side.
        score: (B,) the truth; pairs with equal scores are left out.
        group_size: members of a group.

    Returns:
        (T,) between 0 and 1, one half where values are equal; NaN if no pair is decided.
    """
    mine = values.double().unflatten(-1, (-1, group_size))
    truth = score.double().unflatten(-1, (-1, group_size))
    ahead = (mine.unsqueeze(-1) - mine.unsqueeze(-2)).sign()
    decided = (truth.unsqueeze(-1) - truth.unsqueeze(-2)).sign()
    right = ((1 + ahead * decided) / 2 * decided.abs()).flatten(1).sum(dim=1)
    return right / decided.abs().sum()
