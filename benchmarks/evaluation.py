"""Evaluation as a user would deploy the policy: ODE sampler, no reward model, fixed prompts, fixed noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.settings import RunSettings
from methods.seeding import generator
from rewards.base import scored
from rewards.suites import LoadedSuite
from samplers import build
from samplers.pipeline import PipelinePolicy

#: Number of held-out prompts with sample videos in the report.
SHOWN = 6


@dataclass(frozen=True)
class Evaluated:
    """One evaluation.

    Attributes:
        rows: (split, prompt, sample, reward, value) of every video and reward.
        videos: (P, F, H, W, 3) the first sample of some held-out prompts, for viewing.
        prompts: their P prompts.
    """

    rows: list[tuple[str, str, int, str, float]]
    videos: NDArray[np.uint8]
    prompts: list[str]

    def mean(self, split: str, reward: str) -> float:
        """Mean of one reward over the videos of one split."""
        return float(np.mean([row[4] for row in self.rows if row[0] == split and row[3] == reward]))


def evaluation_prompts(settings: RunSettings) -> list[tuple[str, str]]:
    """(split, prompt) of the fixed prompts: all held-out ones, and evenly spaced training ones."""
    train = evenly_spaced(settings.prompts.train, settings.evaluation.train_prompts)
    return [("held_out", prompt) for prompt in settings.prompts.held_out] + [
        ("train", prompt) for prompt in train
    ]


def evenly_spaced(prompts: Sequence[str], most: int) -> list[str]:
    """At most `most` of the prompts, evenly spaced, in order."""
    count = min(most, len(prompts))
    return [prompts[i * len(prompts) // count] for i in range(count)]


@torch.no_grad()
def evaluate(
    policy: PipelinePolicy, suite: LoadedSuite, settings: RunSettings, iteration: int, final: bool = False
) -> Evaluated:
    """Evaluates a policy on all rewards of a suite.

    Whole prompts form a batch, since diversity compares the videos of one prompt. More videos at the end are more
    rounds of the same, each with noise of its own: the first round is the evaluation that it would be on the way, bit
    for bit, and diversity, which compares the videos of a round, means the same in all.

    Args:
        policy: what is evaluated.
        suite: the rewards.
        settings: prompts, numbers of videos and the sampler.
        iteration: for errors.
        final: whether with `final_samples_per_prompt`, as the base model and the end of a run are.

    Raises:
        RewardError: a reward failed; names prompt, reward and iteration.
    """
    choice = settings.evaluation
    per_batch = max(1, choice.batch // choice.samples_per_prompt)
    prompts = evaluation_prompts(settings)
    rows: list[tuple[str, str, int, str, float]] = []
    shown = {prompt: torch.empty(0) for prompt in evenly_spaced(settings.prompts.held_out, SHOWN)}
    for first in range(0, choice.samples(final), choice.samples_per_prompt):
        samples = range(first, first + choice.samples_per_prompt)
        for start in range(0, len(prompts), per_batch):
            part = prompts[start : start + per_batch]
            videos = _generate(policy, settings, [prompt for _, prompt in part], samples)
            rows += _score(videos, part, suite, samples, iteration)
            if first == 0:
                firsts = zip(videos[:: len(samples)], part, strict=True)
                shown |= {prompt: video for video, (_, prompt) in firsts if prompt in shown}
    pixels = (torch.stack(list(shown.values())).permute(0, 1, 3, 4, 2) * 255).round().to(torch.uint8)
    return Evaluated(rows, pixels.cpu().numpy(), list(shown))


def _generate(
    policy: PipelinePolicy, settings: RunSettings, prompts: Sequence[str], samples: Sequence[int]
) -> Tensor:
    """(P * samples, F, 3, H, W) videos; the noise depends on prompt and sample number only."""
    choice = settings.evaluation
    sampler = build("ode", num_steps=choice.num_steps, shift=choice.shift)
    repeated = [prompt for prompt in prompts for _ in samples]
    generators = [
        generator(choice.seed, "evaluation", prompt, sample) for prompt in prompts for sample in samples
    ]
    noise = policy.initial_noise(generators)
    return policy.decode(sampler.rollout(policy, noise, policy.encode(repeated), keep="final").final)


def _score(
    videos: Tensor,
    part: Sequence[tuple[str, str]],
    suite: LoadedSuite,
    samples: Sequence[int],
    iteration: int,
) -> list[tuple[str, str, int, str, float]]:
    repeated = [prompt for _, prompt in part for _ in samples]
    rows = []
    for name, reward in suite.all.items():
        values = scored(name, reward, videos, repeated, iteration).tolist()
        for position, value in enumerate(values):
            split, prompt = part[position // len(samples)]
            rows.append((split, prompt, samples[position % len(samples)], name, value))
    return rows
